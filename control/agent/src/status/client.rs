//! The command line's side of the socket.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use super::{Refusal, Request, Topic, render, socket_path};
use crate::lock;

/// The process answers within milliseconds; a table of millions of flows takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks and prints.
///
/// # Errors
/// No process answers, or not in a way that is understood.
pub fn query(state_dir: &Path, topic: Topic, json: bool) -> anyhow::Result<ExitCode> {
    let answer = ask(state_dir, topic)?;
    let text = if json {
        answer + "\n"
    } else {
        render::render(topic, &answer).with_context(|| "the running process speaks another version of ringway")?
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // `ringway flows | head`
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write the answer"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// One request, one answer: the JSON document.
///
/// # Errors
/// As [`query`].
pub fn ask(state_dir: &Path, topic: Topic) -> anyhow::Result<String> {
    let path = socket_path(state_dir);
    let mut stream = UnixStream::connect(&path).map_err(|error| unreachable(state_dir, &error))?;
    let exchange = |stream: &mut UnixStream| -> std::io::Result<String> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut request = serde_json::to_string(&Request { topic })?;
        request.push('\n');
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer)
    };
    let answer = exchange(&mut stream).with_context(|| format!("the process at {} did not answer", path.display()))?;
    let answer = answer.trim_end();
    if answer.is_empty() {
        bail!("the process at {} ended while it was asked", path.display());
    }
    if let Ok(refusal) = serde_json::from_str::<Refusal>(answer) {
        bail!("the process at {} refused: {}", path.display(), refusal.error);
    }
    Ok(answer.to_owned())
}

/// Where nobody answers, and what to do.
fn unreachable(state_dir: &Path, error: &std::io::Error) -> anyhow::Error {
    let socket = socket_path(state_dir);
    let advice = match (lock::holder(state_dir), error.kind()) {
        (_, ErrorKind::PermissionDenied) => "run as root".to_owned(),
        (Some(pid), _) => format!("process {pid} is starting or stopping: try again"),
        (None, _) if state_dir == Path::new(crate::config::STATE_DIR_DEFAULT) => {
            "no ringway runs here: start it with `ringway run`, or name its --state-dir if it uses another".to_owned()
        }
        (None, _) => "no ringway runs with this state directory: start it with `ringway run --state-dir` and this directory".to_owned(),
    };
    anyhow!("nobody answers at {}: {error}; {advice}", socket.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_there() {
        let dir = tempfile::tempdir().unwrap();
        let message = ask(dir.path(), Topic::Status).unwrap_err().to_string();
        assert!(message.contains("ringway.sock") && message.contains("ringway run"), "{message}");
    }

    #[test]
    fn a_refusal_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(socket_path(dir.path())).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"error\":\"no such topic\"}\n").unwrap();
        });
        let message = ask(dir.path(), Topic::Status).unwrap_err().to_string();
        server.join().unwrap();
        assert!(message.contains("no such topic"), "{message}");
    }
}
