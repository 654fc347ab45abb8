//! Events for people: an object that breaks a rule says so in `kubectl describe`.
//!
//! One for each object and complaint, a few at a time: a cluster full of broken objects must not become a flood from every node.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use ringway_model::ObjectRef;
use tokio::sync::Notify;
use tokio::time::sleep;

/// So many at once, then one each [`PAUSE`].
const BURST: u32 = 10;
const PAUSE: Duration = Duration::from_secs(5);

/// Complaints that wait; more are lost, and counted.
const WAITING_MAX: usize = 256;

/// Of the API (`note` of events.k8s.io/v1).
const NOTE_BYTES_MAX: usize = 1_000;

/// Complaints on their way.
#[derive(Debug, Default)]
pub struct Complaints {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<ObjectRef, (ObjectReference, String)>,
    /// What was said of an object last.
    said: HashMap<ObjectRef, String>,
    sent: u64,
    lost: u64,
    problem: Option<String>,
}

impl Complaints {
    /// The object breaks rules. Said again only if the text is another.
    pub fn say(&self, object: &ObjectRef, reference: ObjectReference, note: String) {
        let mut state = self.lock();
        if state.said.get(object) == Some(&note) {
            return;
        }
        if state.waiting.len() >= WAITING_MAX && !state.waiting.contains_key(object) {
            state.lost += 1;
            return;
        }
        state.said.insert(object.clone(), note.clone());
        state.waiting.insert(object.clone(), (reference, note));
        self.notify.notify_one();
    }

    /// The object is right again, or gone.
    pub fn forget(&self, object: &ObjectRef) {
        let mut state = self.lock();
        if state.said.remove(object).is_some() {
            state.waiting.remove(object);
        }
    }

    /// Sent, lost, and why the last one was lost.
    pub fn counts(&self) -> (u64, u64, Option<String>) {
        let state = self.lock();
        (state.sent, state.lost, state.problem.clone())
    }

    /// Sends them, for ever.
    pub async fn send(&self, client: Client, node_name: &str) {
        let recorder = Recorder::new(client, Reporter { controller: "ringway".into(), instance: Some(node_name.to_owned()) });
        let (mut credit, mut filled) = (BURST, Instant::now());
        loop {
            let next = self.lock().waiting.pop_first();
            let Some((_, (reference, note))) = next else {
                self.notify.notified().await;
                continue;
            };
            let event = Event {
                type_: EventType::Warning,
                reason: "NotServedAsWritten".into(),
                note: Some(note),
                action: "Convert".into(),
                secondary: None,
            };
            let result = recorder.publish(&event, &reference).await;
            {
                let mut state = self.lock();
                match result {
                    Ok(()) => {
                        state.sent += 1;
                        state.problem = None;
                    }
                    Err(error) => {
                        state.lost += 1;
                        let told = state.problem.replace(format!("cannot send events: {error}"));
                        if told.is_none() {
                            tracing::warn!("cannot send events: {error}");
                        }
                    }
                }
            }
            let refill = u32::try_from(filled.elapsed().as_secs() / PAUSE.as_secs()).unwrap_or(BURST);
            if refill > 0 {
                credit = BURST.min(credit.saturating_add(refill));
                filled = Instant::now();
            }
            credit = credit.saturating_sub(1);
            if credit == 0 {
                sleep(PAUSE).await;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The text of an event: all that is wrong, as far as it fits.
pub fn note(sentences: impl IntoIterator<Item = String>) -> String {
    let mut text = sentences.into_iter().collect::<Vec<_>>().join("; ");
    if text.len() > NOTE_BYTES_MAX {
        let end = (0..=NOTE_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringway_model::Kind;

    fn object(number: usize) -> ObjectRef {
        ObjectRef { kind: Kind::Service, namespace: "d".into(), name: number.to_string() }
    }

    #[test]
    fn the_same_is_said_once_and_never_too_much() {
        let complaints = Complaints::default();
        for _ in 0..3 {
            complaints.say(&object(0), ObjectReference::default(), "a".into());
        }
        assert_eq!(complaints.lock().waiting.len(), 1);
        complaints.lock().waiting.clear();
        complaints.say(&object(0), ObjectReference::default(), "a".into());
        assert!(complaints.lock().waiting.is_empty(), "sent already");
        complaints.say(&object(0), ObjectReference::default(), "b".into());
        assert_eq!(complaints.lock().waiting.len(), 1, "another complaint");
        complaints.forget(&object(0));
        assert!(complaints.lock().waiting.is_empty());
        for number in 0..2 * WAITING_MAX {
            complaints.say(&object(number), ObjectReference::default(), "a".into());
        }
        assert_eq!(complaints.lock().waiting.len(), WAITING_MAX);
        assert_eq!(complaints.counts().1, WAITING_MAX as u64);
    }

    #[test]
    fn notes_fit_the_api() {
        assert_eq!(note(["a".to_owned(), "b".to_owned()]), "a; b");
        assert!(note(["ä".repeat(5_000)]).len() <= 1_024);
    }
}
