//! Where etcd and kube-apiserver come from.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// A program by its name: from `KUBEBUILDER_ASSETS`, else from our cache, where `scripts/kubernetes.sh` builds it if need be.
///
/// # Errors
/// It is nowhere and cannot be built. The test must fail then: it did not run.
pub fn program(name: &str) -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("KUBEBUILDER_ASSETS") {
        let path = Path::new(&dir).join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    static CACHE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match CACHE.get_or_init(|| prepare().map_err(|error| format!("{error:#}"))) {
        Ok(dir) => Ok(dir.join(name)),
        Err(error) => bail!("THE TEST DID NOT RUN: there is no {name}: {error}"),
    }
}

fn prepare() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kubernetes.sh");
    let output = Command::new(&script).output().with_context(|| format!("cannot start {}", script.display()))?;
    if !output.status.success() {
        bail!("scripts/kubernetes.sh: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}
