//! The server in each pod: `lab-server`.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::namespace::Namespace;
use super::own_program;
use super::process::Process;

/// Starts a server that answers with `name` on TCP and UDP `port`, and waits until it listens.
pub(super) fn start(namespace: &Namespace, name: &str, port: u16) -> Result<Process> {
    let program = own_program("lab-server")?;
    let mut server = namespace.spawn("server", &[&program.to_string_lossy(), name, &port.to_string()])?;
    let line = server.line(Duration::from_secs(5))?;
    ensure!(line == "ready", "the server of {name} says {line}");
    Ok(server)
}
