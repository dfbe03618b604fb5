"""A mail server on a free port of this machine. Its first line tells the port; then one line of JSON for each message.

Each line on standard input is the fate of one message to come: 451 or 550 (refused, with the address in the words, as
servers do), drop (taken, and the connection cut before the answer), stall (never answered), late (answered after two
seconds), anything else is taken. Without a line a message is taken. Behind "once " a fate meets no message a second time.

With the arguments CERT KEY VERSION (1.2 or 1.3) it takes no mail before STARTTLS, in that version of TLS alone.
"""

import asyncio
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP

fates = []
met = set()


class Handler:
    async def handle_DATA(self, server, session, envelope):
        fate = fates.pop(0) if fates else "ok"
        text = envelope.content.decode()
        if fate.startswith("once "):
            name = next(line for line in text.splitlines() if line.startswith("Message-ID: "))
            fate = "ok" if name in met else fate.removeprefix("once ")
            met.add(name)
        seen = {"fate": fate, "to": envelope.rcpt_tos, "mail": text}
        print(json.dumps(seen), flush=True)
        if fate == "451":
            return f"451 {envelope.rcpt_tos[0]} is busy"
        if fate == "550":
            return f"550 {envelope.rcpt_tos[0]} is unknown"
        if fate == "drop":
            server.transport.abort()
        if fate == "stall":
            await asyncio.Event().wait()
        if fate == "late":
            await asyncio.sleep(2)
        return "250 taken"


async def main():
    loop = asyncio.get_running_loop()
    tls = None
    if len(sys.argv) > 1:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(sys.argv[1], sys.argv[2])
        version = ssl.TLSVersion.TLSv1_3 if sys.argv[3] == "1.3" else ssl.TLSVersion.TLSv1_2
        tls.minimum_version = tls.maximum_version = version

    def smtp():
        return SMTP(Handler(), hostname="mail.test", tls_context=tls, require_starttls=tls is not None)

    server = await loop.create_server(smtp, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        fates.append(line.decode().strip())


asyncio.run(main())
