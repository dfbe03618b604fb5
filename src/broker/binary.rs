//! The nats-server to run: configured, built in, or on PATH; and its version.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::{Error, FLOOR, Options};

/// The nats-server that [`start`](super::start) would run, and its version. Unpacks the bundled one where that was not done yet.
///
/// # Errors
/// See [`Error`].
pub async fn probe(options: &Options) -> Result<(PathBuf, String), Error> {
    let binary = find(options)?;
    let version = version_of(&binary).await?;
    Ok((binary, version))
}

fn find(options: &Options) -> Result<PathBuf, Error> {
    if let Some(binary) = &options.binary {
        return Ok(binary.clone());
    }
    if let Some(bundled) = bundled(&options.store_dir)? {
        return Ok(bundled);
    }
    let on_path = options
        .path_dirs
        .iter()
        .map(|dir| dir.join("nats-server"))
        .find(|path| path.is_file());
    on_path.ok_or(Error::NotFound)
}

/// The copy in the binary, unpacked once under its content hash.
#[cfg(feature = "bundled-broker")]
fn bundled(store_dir: &Path) -> Result<Option<PathBuf>, Error> {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nats-server.gz"));
    let path = store_dir
        .join("bin")
        .join(env!("ROADCALL_BUNDLED_SHA256"))
        .join("nats-server");
    if path.is_file() {
        return Ok(Some(path));
    }
    let fail = |error: std::io::Error| Error::Directory {
        path: path.clone(),
        message: error.to_string(),
    };
    let dir = path.parent().unwrap_or(store_dir);
    std::fs::create_dir_all(dir).map_err(fail)?;
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(PACKED)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    // Under another name first, so that a start that is cut off leaves no half a server behind.
    let half = dir.join(format!("unpacking-{}", std::process::id()));
    std::fs::write(&half, bytes).map_err(fail)?;
    std::fs::set_permissions(&half, std::fs::Permissions::from_mode(0o755)).map_err(fail)?;
    std::fs::rename(&half, &path).map_err(fail)?;
    Ok(Some(path))
}

#[cfg(not(feature = "bundled-broker"))]
#[allow(clippy::unnecessary_wraps)] // has the shape of its twin
fn bundled(_store_dir: &Path) -> Result<Option<PathBuf>, Error> {
    Ok(None)
}

async fn version_of(binary: &Path) -> Result<String, Error> {
    let fail = |message: String| Error::NotRunnable {
        path: binary.to_owned(),
        message,
    };
    let output = Command::new(binary)
        .arg("--version")
        .stdin(Stdio::piped())
        .output()
        .await
        .map_err(|error| fail(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .trim()
        .strip_prefix("nats-server: v")
        .ok_or_else(|| fail("it does not say its version".to_owned()))?;
    if numbers(version) < FLOOR {
        return Err(Error::TooOld {
            path: binary.to_owned(),
            found: version.to_owned(),
        });
    }
    Ok(version.to_owned())
}

pub(super) fn numbers(version: &str) -> (u32, u32, u32) {
    let mut numbers = version
        .split(['.', '-'])
        .map(|part| part.parse().unwrap_or(0));
    (
        numbers.next().unwrap_or(0),
        numbers.next().unwrap_or(0),
        numbers.next().unwrap_or(0),
    )
}
