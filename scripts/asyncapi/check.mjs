// Parses an AsyncAPI document with the official parser and tells what it finds; errors and warnings fail.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const WARNING = 1;
const text = readFileSync(process.argv[2], "utf8");
const { document, diagnostics } = await new Parser().parse(text);
for (const found of diagnostics) {
  console.error(`${found.severity} ${found.code} at ${found.path.join(".")}: ${found.message}`);
}
const bad = diagnostics.filter((found) => found.severity <= WARNING);
if (!document || bad.length > 0) {
  process.exit(1);
}
const size = (list) => list.all().length;
console.log(`AsyncAPI ${document.version()}: ${size(document.channels())} channels, ${size(document.operations())} operations, ${size(document.allMessages())} messages`);
