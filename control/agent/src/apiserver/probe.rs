//! Asks each candidate for `/readyz`, for ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::{sleep, timeout};

use super::candidates::CandidateId;
use super::endpoint::Endpoint;
use super::transport::{Link, Transport};

/// For the answer; a server that takes longer has other troubles than load.
const PATIENCE: Duration = Duration::from_secs(2);

/// The prober looks around at least so often: whether a better candidate has settled, and which ones are on this node now.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Never ends.
pub async fn probe(transport: Arc<Transport>) {
    loop {
        let now = Instant::now();
        let (due, next) = transport
            .update(|candidates| {
                candidates.refresh_local(Endpoint::is_local);
                (candidates.take_due(now), candidates.next_due())
            })
            .await;
        for (id, _) in due {
            tokio::spawn(probe_one(Arc::clone(&transport), id));
        }
        let pause = next.map_or(LOOK_EVERY, |next| next.saturating_duration_since(Instant::now())).min(LOOK_EVERY);
        tokio::select! {
            () = sleep(pause) => {}
            () = transport.kick.notified() => {}
        }
    }
}

async fn probe_one(transport: Arc<Transport>, id: CandidateId) {
    let began = Instant::now();
    let mut outcome = ask(&transport, id).await;
    if let Err(Answer::None { .. }) = outcome {
        // Perhaps only the connection is dead: once more over a new one.
        outcome = ask(&transport, id).await;
    }
    let now = Instant::now();
    transport
        .update(|candidates| match outcome {
            Ok(()) => candidates.succeeded(id, now - began, now),
            Err(Answer::Unready(why)) => candidates.failed(id, why, true, now),
            Err(Answer::None(why)) => candidates.failed(id, why, false, now),
        })
        .await;
    // It is due again, or the choice may be another.
    transport.kick.notify_one();
}

/// An answer that is none to be glad of.
enum Answer {
    Unready(String),
    None(String),
}

async fn ask(transport: &Transport, id: CandidateId) -> Result<(), Answer> {
    let credentials = transport.credentials.current(false).await;
    let Some(link) = transport.link_of(id, &credentials) else { return Err(Answer::None("gone".into())) };
    let request = request(&link, &credentials).await.map_err(Answer::None)?;
    let response = match link.ask(request, PATIENCE).await {
        Ok(response) => response,
        Err(failure) => {
            transport.cut(&link);
            return Err(Answer::None(failure.why()));
        }
    };
    let status = response.status();
    // To the end, so that the connection can be used again.
    let text = timeout(PATIENCE, response.into_body().collect()).await;
    match status {
        // Who may not ask has still met a server that decides: it works.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => Ok(()),
        status if status.is_success() => Ok(()),
        status => {
            let text = text.ok().and_then(Result::ok).map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
            let failed = text.as_deref().unwrap_or_default().lines().find(|line| line.starts_with("[-]")).unwrap_or_default().to_owned();
            Err(Answer::Unready(format!("/readyz: {status} {failed}").trim_end().to_owned()))
        }
    }
}

async fn request(link: &Link, credentials: &super::credentials::Loaded) -> Result<Request<Body>, String> {
    let uri = link.uri("/readyz").map_err(|error| error.to_string())?;
    let request = Request::get(uri).body(Body::empty()).map_err(|error| error.to_string())?;
    credentials.sign(request).await.map_err(|error| error.to_string())
}
