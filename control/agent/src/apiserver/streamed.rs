//! The body of an answer, which ends when its link does.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http_body::{Body, Frame};
use hyper::body::{Bytes, Incoming};
use tokio::sync::watch;
use tower::BoxError;

use super::heard::Ear;
use super::transport::Life;

/// See the module.
pub struct Streamed {
    body: Incoming,
    /// Comes with the end of the link.
    ended: Option<BoxFuture<'static, Life>>,
    is_watch: bool,
    heard: Option<Ear>,
}

impl Streamed {
    pub fn new(body: Incoming, mut life: watch::Receiver<Life>, is_watch: bool, heard: Option<Ear>) -> Streamed {
        if let Some(heard) = &heard {
            heard.now();
        }
        let ended = async move {
            let ended = life.wait_for(|life| *life != Life::InUse).await.map(|life| *life);
            // A link that nobody holds any more goes on until its streams end.
            match ended {
                Ok(life) => life,
                Err(_) => std::future::pending().await,
            }
        };
        Streamed { body, ended: Some(Box::pin(ended)), is_watch, heard }
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(ended) = &mut self.ended
            && let Poll::Ready(life) = ended.as_mut().poll(context)
        {
            self.ended = None;
            match (self.is_watch, life) {
                // As if the server had ended it: the watch is resumed where it was.
                (true, _) => return Poll::Ready(None),
                (false, Life::Dead) => return Poll::Ready(Some(Err("the apiserver is lost".into()))),
                (false, _) => {}
            }
        }
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let (Poll::Ready(Some(Ok(_))), Some(heard)) = (&frame, &self.heard) {
            heard.now();
        }
        frame.map_err(Into::into)
    }
}
