# The two commands of a newcomer are `make run` and `make test`; CONTRIBUTING.md says what the others do.
.PHONY: run test test-all lint bench attack fuzz

# The main job: server and agent in one process, and an SVID on the screen.
run:
	cargo run --quiet --package cli -- dev

# Everything that needs no heavy peer.
test:
	tests/setup
	cargo test --workspace

# The heavy peers and the longer rounds. SIGNET_DEADLINE (Unix seconds) starts no tier after it.
test-all: test
	tests/heavy

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --features tests/heavy -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

# Ratios against this machine's limits and against peers, in one run.
bench:
	cargo build --release --package cli
	cargo run --release --package tests --bin bench

# The attack tests with their long rounds. A release has no failpoints, so those are a debug build's.
attack:
	tests/setup
	SIGNET_ROUNDS=10000 cargo test --release --package tests --test attack -- --nocapture
	SIGNET_ROUNDS=10000 cargo test --package tests --test attack -- --nocapture failpoint

# Each fuzz target for SECONDS (60).
fuzz:
	tests/fuzz/run $(or $(SECONDS_EACH),60)
