//! Lists and watches one kind, for ever.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Error};
use ringway_model::convert::{Refused, convert};
use ringway_model::{Kind, Problem, Severity};

use super::events::{Cause, Complaints, note};
use super::objects::{Objects, Outcome};
use super::raw::{Raw, Watched};
use super::rollback::RolledBack;
use super::taint::StartupTaint;

/// Between attempts: at first, doubled up to the last, with jitter so that nodes do not come all at once. The transport waits for an
/// apiserver before it sends, so this is for those that answer and refuse.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LAST: Duration = Duration::from_secs(8);

/// Until an apiserver is asked again for a kind that it does not know.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(120);

/// Objects in one answer: what is held in memory besides the models.
const PAGE_OBJECTS: u32 = 500;

/// Where what is heard goes.
pub struct Follower {
    pub client: Client,
    pub objects: Arc<Objects>,
    pub complaints: Arc<Complaints>,
    /// Name of this node.
    pub node_name: String,
    /// `None`: taints are nobody's business here.
    pub taint: Option<Arc<StartupTaint>>,
}

impl Follower {
    /// Never ends.
    pub async fn follow<K: Watched>(&self) {
        let config = watcher::Config::default().labels(K::SELECTOR).fields(&K::fields(&self.node_name)).page_size(PAGE_OBJECTS);
        let mut failures = 0;
        loop {
            let mut events = std::pin::pin!(watcher(Api::<Raw<K>>::all_with(self.client.clone(), &()), config.clone()));
            while let Some(event) = events.next().await {
                match event {
                    Ok(event) => {
                        if !matches!(event, Event::Init) {
                            failures = 0;
                        }
                        self.take(event);
                    }
                    Err(error) if K::OPTIONAL && is_unknown(&error) => {
                        // As if it were listed, and empty.
                        self.objects.begin_list(K::KIND);
                        self.objects.end_list(K::KIND);
                        tokio::time::sleep(UNKNOWN_PAUSE).await;
                        break;
                    }
                    Err(error) => {
                        let trouble = Trouble::of::<K>(&error);
                        tracing::debug!("{}", trouble.why);
                        self.objects.trouble(K::KIND, trouble.why);
                        tokio::time::sleep(pause(failures)).await;
                        failures += 1;
                        if trouble.begin_again {
                            break;
                        }
                    }
                }
            }
        }
    }

    fn take<K: Watched>(&self, event: Event<Raw<K>>) {
        match event {
            Event::Init => self.objects.begin_list(K::KIND),
            Event::InitApply(raw) => self.apply(raw, false),
            Event::InitDone => {
                self.objects.end_list(K::KIND);
                tracing::debug!("{} are fresh", K::plural(&()));
            }
            Event::Apply(raw) => self.apply(raw, true),
            Event::Delete(raw) => {
                let object = raw.object_ref();
                self.complaints.forget_all(&object);
                self.objects.delete(&object, raw.version());
            }
        }
    }

    fn apply<K: Watched>(&self, raw: Raw<K>, live: bool) {
        let (object, version) = (raw.object_ref(), raw.version());
        let reference = ObjectReference {
            api_version: Some(K::api_version(&()).into_owned()),
            kind: Some(K::kind(&()).into_owned()),
            namespace: raw.metadata.namespace.clone(),
            name: raw.metadata.name.clone(),
            uid: raw.metadata.uid.clone(),
            resource_version: raw.metadata.resource_version.clone(),
            field_path: None,
        };
        if let (Some(taint), Some(node)) = (&self.taint, raw.parsed.as_ref().ok().and_then(K::node)) {
            taint.see(node);
        }
        let converted = match raw.parsed {
            Ok(parsed) if live => convert(&parsed.object()),
            Ok(parsed) => convert(&parsed.without_trigger().object()),
            Err(why) => Err(Refused { problems: vec![misfit(&object, why)], object: Some(object.clone()) }),
        };
        match self.objects.apply(&object, version, converted) {
            Outcome::Taken => self.complaints.forget(&object),
            // Events belong to a namespace, and nobody would look for those of Nodes and ranges in some. Of a pod nothing is served.
            Outcome::Refused(_) if object.namespace.is_empty() || object.kind == Kind::Pod => {}
            Outcome::Refused(sentences) => {
                let kept = "not in force as written, the last good version is, if there was one".to_owned();
                self.complaints.say(&object, Cause::Written, Some(reference), note(sentences.into_iter().chain([kept])));
            }
        }
    }
}

fn misfit(object: &ringway_model::ObjectRef, why: String) -> Problem {
    Problem {
        severity: Severity::Error,
        file: None,
        document: None,
        line: None,
        kind: Some(object.kind.to_string()),
        namespace: (!object.namespace.is_empty()).then(|| object.namespace.to_string()),
        name: Some(object.name.to_string()),
        field: None,
        message: format!("cannot be understood: {why}"),
    }
}

fn pause(failures: u32) -> Duration {
    let full = PAUSE_FIRST.saturating_mul(1 << failures.min(8)).min(PAUSE_LAST);
    let jitter = RandomState::new().hash_one(failures) % 512;
    full / 2 + full.mul_f64(jitter as f64 / 1024.0)
}

/// The apiserver does not know such objects: it is older than they are (ServiceCIDRs are of Kubernetes 1.33).
fn is_unknown(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(Error::Api(status)) if status.code == 404)
}

/// What a failure means.
struct Trouble {
    why: String,
    /// The watch cannot be resumed: list anew.
    begin_again: bool,
}

impl Trouble {
    fn of<K: Watched>(error: &watcher::Error) -> Trouble {
        let resource = K::plural(&());
        let (verb, cause) = match error {
            watcher::Error::InitialListFailed(cause) => ("list", cause),
            watcher::Error::WatchStartFailed(cause) | watcher::Error::WatchFailed(cause) => ("watch", cause),
            watcher::Error::WatchError(status) => {
                return Trouble { why: format!("watch {resource}: {}", status.message), begin_again: false };
            }
            watcher::Error::NoResourceVersion => return Trouble { why: format!("{resource}: {error}"), begin_again: true },
        };
        if let Error::Service(service) = cause
            && let Some(rolled_back) = service.downcast_ref::<RolledBack>()
        {
            return Trouble { why: format!("{resource} are listed anew: {rolled_back}"), begin_again: true };
        }
        let Error::Api(status) = cause else {
            return Trouble { why: format!("cannot {verb} {resource}: {}", innermost(cause)), begin_again: false };
        };
        let why = match status.code {
            403 => format!("may not {verb} {resource}, {}: {} (grant it, and it heals by itself)", without::<K>(verb), status.message),
            401 => format!("cannot {verb} {resource}: the apiserver does not accept our credentials: {}", status.message),
            _ => format!("cannot {verb} {resource}: {} ({})", status.message, status.code),
        };
        // 410: too old. 403: without watching, a list now and then is the next best.
        Trouble { why, begin_again: verb == "watch" && [403, 410].contains(&status.code) }
    }
}

/// What still works when a kind is forbidden.
fn without<K: Watched>(verb: &str) -> &'static str {
    if verb == "watch" {
        return "so they are listed again and again instead";
    }
    match K::KIND {
        Kind::Service => "services stay as they were known last; what is known of their endpoints is still followed",
        Kind::EndpointSlice => "endpoints stay as they were known last; services are still followed",
        Kind::Pod => "so pods of this node that cannot be served are not named; everything else is still followed",
        _ => "everything else is still followed",
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        for (failures, full) in [(0, PAUSE_FIRST), (3, 8 * PAUSE_FIRST), (40, PAUSE_LAST)] {
            let pause = pause(failures);
            assert!(pause >= full / 2 && pause < full, "{failures}: {pause:?}");
        }
    }
}
