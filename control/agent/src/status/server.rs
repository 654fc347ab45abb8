//! Listens on the socket and hands requests to the control loop, which owns what they ask for.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Refusal, Request, Topic, socket_path};

/// A request is a few bytes, sent at once.
const REQUEST_BYTES_MAX: u64 = 4096;
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);

/// Requests that wait for the control loop; it answers each in a millisecond or so.
const PENDING_MAX: usize = 64;

/// A request on its way to the control loop.
#[derive(Debug)]
pub struct Question {
    pub topic: Topic,
    /// Takes the JSON document.
    pub answer: oneshot::Sender<String>,
}

/// Listens; the socket of an earlier process is replaced. The task ends with the runtime.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(state_dir: &Path) -> anyhow::Result<mpsc::Receiver<Question>> {
    let path = socket_path(state_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove the old socket {}", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen at {}", path.display()))?;
    // What flows through the node is nobody's business but root's.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot protect {}", path.display()))?;
    let (sender, questions) = mpsc::channel(PENDING_MAX);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(stream, sender.clone()))),
                // Out of descriptors, mostly: later there may be some.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(questions)
}

async fn serve(mut stream: UnixStream, control: mpsc::Sender<Question>) {
    let mut answer = match request(&mut stream).await {
        Ok(topic) => ask(&control, topic).await,
        Err(error) => refuse(error),
    };
    answer.push('\n');
    // Whoever asked may be gone.
    let _ = stream.write_all(answer.as_bytes()).await;
}

async fn request(stream: &mut UnixStream) -> Result<Topic, String> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream.take(REQUEST_BYTES_MAX));
    match timeout(REQUEST_PATIENCE, reader.read_line(&mut line)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(format!("cannot read the request: {error}")),
        Err(_) => return Err("no request within 5 s".into()),
    }
    let request: Request = serde_json::from_str(&line).map_err(|error| format!("the request is not understood: {error}"))?;
    Ok(request.topic)
}

async fn ask(control: &mpsc::Sender<Question>, topic: Topic) -> String {
    let (answer, document) = oneshot::channel();
    if control.send(Question { topic, answer }).await.is_err() {
        return refuse("the process is stopping".into());
    }
    document.await.unwrap_or_else(|_| refuse("the process is stopping".into()))
}

fn refuse(error: String) -> String {
    // A struct of one string always serializes.
    serde_json::to_string(&Refusal { error }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn exchange(dir: &Path, request: &str) -> String {
        let mut stream = UnixStream::connect(socket_path(dir)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn requests_reach_the_control_loop() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(socket_path(dir.path()), "left by a crash").unwrap();
        let mut questions = listen(dir.path()).unwrap();
        tokio::spawn(async move {
            while let Some(question) = questions.recv().await {
                question.answer.send(format!("{:?}", question.topic)).unwrap();
            }
        });
        assert_eq!(exchange(dir.path(), "{\"topic\":\"flows\"}\n").await, "Flows\n");
        assert!(exchange(dir.path(), "nonsense\n").await.contains("not understood"));
        assert!(exchange(dir.path(), "{\"topic\":\"secrets\"}\n").await.contains("not understood"));
    }
}
