//! With the feature `bundled-broker`: packs the nats-server named by ROADCALL_NATS_SERVER for the binary.

fn main() {
    println!("cargo::rerun-if-env-changed=ROADCALL_NATS_SERVER");
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_BUNDLED_BROKER").is_none() {
        return;
    }
    if let Err(message) = pack() {
        println!("cargo::error={message}");
    }
}

fn pack() -> Result<(), String> {
    use sha2::{Digest, Sha256};
    use std::io::Write;
    let source = std::env::var("ROADCALL_NATS_SERVER")
        .map_err(|_| "feature bundled-broker needs ROADCALL_NATS_SERVER, the path of a nats-server; try `make build`")?;
    println!("cargo::rerun-if-changed={source}");
    let bytes = std::fs::read(&source)
        .map_err(|error| format!("ROADCALL_NATS_SERVER {source}: {error}"))?;
    let hash: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let out = std::env::var("OUT_DIR").map_err(|error| error.to_string())?;
    let file = std::fs::File::create(format!("{out}/nats-server.gz"))
        .map_err(|error| error.to_string())?;
    let mut packer = flate2::write::GzEncoder::new(file, flate2::Compression::best());
    packer
        .write_all(&bytes)
        .and_then(|()| packer.finish().map(drop))
        .map_err(|error| error.to_string())?;
    println!("cargo::rustc-env=ROADCALL_BUNDLED_SHA256={hash}");
    Ok(())
}
