# The targets that README names. Each does its own set-up.
SHELL := /bin/bash
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
BROKER := target/broker/nats-server

.PHONY: broker python-client mail-server schemathesis client-generator asyncapi-parser asyncapi promtool build demo dist cargo-deb test verify fmt clippy doc bench

broker:
	@scripts/fetch-broker

# What the tests publish foreign events with.
python-client:
	@scripts/fetch-python-client

# The official validator of what `roadcall event asyncapi` prints.
asyncapi-parser:
	@scripts/fetch-asyncapi-parser

asyncapi: asyncapi-parser
	cargo build --locked
	target/debug/roadcall event asyncapi > target/asyncapi/roadcall.yaml
	scripts/check-asyncapi target/asyncapi/roadcall.yaml

# The mail server that the tests send to.
mail-server:
	@scripts/fetch-mail-server

# What the tests send to every command of the HTTP door.
schemathesis:
	@scripts/fetch-schemathesis

# What the tests make a client out of the OpenAPI document with.
client-generator:
	@scripts/fetch-client-generator

# What checks the alert rules: of Debian's package prometheus.
promtool:
	@scripts/fetch-promtool

# A static release binary with the broker in it. The explicit target keeps the flags from the proc-macros. In a static
# binary the getrandom crate can't look libc's function up and would want /dev/random; told so, it asks the kernel.
STATIC := -C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"

build: broker
	ROADCALL_NATS_SERVER=$(abspath $(BROKER)) RUSTFLAGS='$(STATIC)' \
		cargo build --locked --release --target $(HOST) --features bundled-broker
	install -D -m 0755 target/$(HOST)/release/roadcall target/release/roadcall

demo: build
	target/release/roadcall demo

# The AsyncAPI parser is npm's. Where there is no npm, the tests check the document by themselves; `make asyncapi` gets Node, too.
test: broker python-client mail-server schemathesis client-generator
	@scripts/fetch-promtool || echo "no promtool: alert rules and board are checked by our own tests alone" >&2
	@{ command -v npm >/dev/null && scripts/fetch-asyncapi-parser; } || echo "no AsyncAPI parser: the document is checked by our own tests alone" >&2
	cargo test --locked

fmt:
	cargo fmt --check

clippy:
	cargo clippy --locked --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

verify: fmt clippy doc test

# What makes the .deb.
cargo-deb:
	@scripts/fetch-cargo-deb

# target/dist: a tarball and a .deb of the static binary with all that goes with it.
dist: build cargo-deb
	@scripts/dist

bench: build
	target/release/roadcall bench
