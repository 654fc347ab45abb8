//! A certificate authority for one test, by openssl.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// A name in every server's certificate.
pub const SERVER_NAME: &str = "api.ringway.test";

/// Elliptic keys: a tenth of a second for all.
const FUNCTIONS: &str = r#"
set -eu
key() { openssl ecparam -genkey -name prime256v1 -noout | openssl pkcs8 -topk8 -nocrypt -out "$1.key"; }
sign() { # name subject extensions
  key "$1"
  openssl req -new -key "$1.key" -subj "$2" | openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile extensions -out "$1.crt"
}
"#;

const SCRIPT: &str = r#"
key ca
openssl req -x509 -new -key ca.key -subj /CN=ringway-test-ca -days 30 -out ca.crt
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$NAMES" >extensions
sign server /CN=kube-apiserver
openssl pkey -in server.key -pubout -out server.pub
printf 'extendedKeyUsage=clientAuth\n' >extensions
sign admin /O=system:masters/CN=admin
"#;

/// Makes the folder with `ca`, `server` and `admin` (`.crt`, `.key`). `named`: the server's certificate has no address.
pub fn make(dir: &Path, address: &str, named: bool) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let addresses = if named { String::new() } else { format!("IP:{address},IP:127.0.0.1,IP:10.96.0.1,") };
    let names = format!("{addresses}DNS:{SERVER_NAME},DNS:kubernetes.default.svc");
    sh(dir, &[FUNCTIONS, SCRIPT].concat(), ("NAMES", &names))
}

/// Makes a client's certificate and key anew in the folder: `client.crt`, `client.key`, each replaced at once.
pub fn make_client(dir: &Path, user: &str) -> Result<()> {
    let script = "sign new-client \"/CN=$CLIENT\"; mv new-client.key client.key; mv new-client.crt client.crt";
    sh(dir, &[FUNCTIONS, script].concat(), ("CLIENT", user))
}

fn sh(dir: &Path, script: &str, variable: (&str, &str)) -> Result<()> {
    let output =
        Command::new("sh").args(["-c", script]).env(variable.0, variable.1).current_dir(dir).output().context("cannot start sh")?;
    ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
