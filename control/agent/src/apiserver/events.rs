//! Events for people: an object that breaks a rule says so in `kubectl describe`.
//!
//! One for each object and complaint, a few at a time: a cluster full of broken objects must not become a flood from every node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::api::ListParams;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use ringway_model::{Kind, ObjectRef, ServiceName};
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

/// Why an object is complained of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// It breaks a rule.
    Written,
    /// It is right, but not, or not all of it, in force.
    Programmed,
}

impl Cause {
    /// `reason` and `action` of the Event.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Cause::Written => ("NotServedAsWritten", "Convert"),
            Cause::Programmed => ("NotProgrammed", "Program"),
        }
    }
}

type Topic = (ObjectRef, Cause);

/// Without a reference where only the name is known.
type Complaint = (Option<ObjectReference>, String);

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Topic, Complaint>,
    /// What was said of an object last.
    said: HashMap<Topic, String>,
    sent: u64,
    lost: u64,
    problem: Option<String>,
}

impl State {
    fn forget(&mut self, topic: &Topic) {
        if self.said.remove(topic).is_some() {
            self.waiting.remove(topic);
        }
    }
}

impl Complaints {
    /// Something is wrong with the object. Said again only if the text is another.
    pub fn say(&self, object: &ObjectRef, cause: Cause, reference: Option<ObjectReference>, note: String) {
        let topic = (object.clone(), cause);
        let mut state = self.lock();
        if state.said.get(&topic) == Some(&note) {
            return;
        }
        if state.waiting.len() >= WAITING_MAX && !state.waiting.contains_key(&topic) {
            // The other cause is offered again and again, until there is room.
            state.lost += u64::from(cause == Cause::Written);
            return;
        }
        state.said.insert(topic.clone(), note.clone());
        state.waiting.insert(topic, (reference, note));
        self.notify.notify_one();
    }

    /// The object is written right again.
    pub fn forget(&self, object: &ObjectRef) {
        self.lock().forget(&(object.clone(), Cause::Written));
    }

    /// The object is gone; another one of its name would be complained of anew.
    pub fn forget_all(&self, object: &ObjectRef) {
        let mut state = self.lock();
        for cause in [Cause::Written, Cause::Programmed] {
            state.forget(&(object.clone(), cause));
        }
    }

    /// All Services that are not programmed as written, and what of them.
    pub fn set_unprogrammed(&self, services: BTreeMap<ServiceName, BTreeSet<String>>) {
        let object = |ServiceName { namespace, name }| ObjectRef { kind: Kind::Service, namespace, name };
        let notes: BTreeMap<ObjectRef, String> =
            services.into_iter().map(|(service, sentences)| (object(service), note(sentences))).collect();
        let mut state = self.lock();
        let is_over = |topic: &&Topic| topic.1 == Cause::Programmed && !notes.contains_key(&topic.0);
        let over: Vec<Topic> = state.said.keys().filter(is_over).cloned().collect();
        over.iter().for_each(|topic| state.forget(topic));
        drop(state);
        for (object, note) in notes {
            self.say(&object, Cause::Programmed, None, note);
        }
    }

    /// Sent, lost, and why the last one was lost.
    pub fn counts(&self) -> (u64, u64, Option<String>) {
        let state = self.lock();
        (state.sent, state.lost, state.problem.clone())
    }

    /// Sends them, for ever.
    pub async fn send(&self, client: Client, node_name: &str) {
        let reporter = Reporter { controller: "ringway".into(), instance: Some(node_name.to_owned()) };
        let (mut credit, mut filled) = (BURST, Instant::now());
        loop {
            let next = self.lock().waiting.pop_first();
            let Some((topic, complaint)) = next else {
                self.notify.notified().await;
                continue;
            };
            let result = publish(&client, &reporter, &topic, &complaint).await;
            self.note(topic, complaint, result);
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

    /// What became of a complaint. One that may succeed later waits again, unless something else is said of the object by now.
    fn note(&self, topic: Topic, complaint: Complaint, result: kube::Result<bool>) {
        let mut state = self.lock();
        match result {
            Ok(was_sent) => {
                state.sent += u64::from(was_sent);
                state.problem = None;
            }
            Err(error) => {
                let told = state.problem.replace(format!("cannot send events: {error}"));
                if told.is_none() {
                    tracing::warn!("cannot send events: {error}");
                }
                if is_final(&error) {
                    state.lost += 1;
                } else if state.said.get(&topic) == Some(&complaint.1) {
                    state.waiting.entry(topic).or_insert(complaint);
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// False: the object is not there.
async fn publish(client: &Client, reporter: &Reporter, (object, cause): &Topic, (reference, note): &Complaint) -> kube::Result<bool> {
    let reference = match reference {
        Some(reference) => Some(reference.clone()),
        None => find(client, object).await?,
    };
    let Some(reference) = reference else { return Ok(false) };
    let (reason, action) = cause.words();
    let event =
        Event { type_: EventType::Warning, reason: reason.into(), note: Some(note.clone()), action: action.into(), secondary: None };
    // A new one each time: it would send an earlier note of the same object and reason again, and count it.
    Recorder::new(client.clone(), reporter.clone()).publish(&event, &reference).await.map(|()| true)
}

/// The apiserver does not take this Event, whenever it is sent.
fn is_final(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && ![401, 403, 408, 429].contains(&status.code))
}

/// What an Event has to say of a Service beside its name, or `kubectl describe` does not find it. By a list, for the right to list is one
/// that we have.
async fn find(client: &Client, service: &ObjectRef) -> kube::Result<Option<ObjectReference>> {
    let only = ListParams::default().fields(&format!("metadata.name={}", service.name));
    let found = Api::<Service>::namespaced(client.clone(), &service.namespace).list_metadata(&only).await?;
    Ok(found.items.into_iter().next().map(|found| ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Service".into()),
        namespace: found.metadata.namespace,
        name: found.metadata.name,
        uid: found.metadata.uid,
        resource_version: found.metadata.resource_version,
        field_path: None,
    }))
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

    fn object(number: usize) -> ObjectRef {
        ObjectRef { kind: Kind::Service, namespace: "d".into(), name: number.to_string().into() }
    }

    #[test]
    fn the_same_is_said_once_and_never_too_much() {
        let complaints = Complaints::default();
        let say =
            |number: usize, text: &str| complaints.say(&object(number), Cause::Written, Some(ObjectReference::default()), text.into());
        let take = || std::mem::take(&mut complaints.lock().waiting).len();
        for _ in 0..3 {
            say(0, "a");
        }
        assert_eq!(take(), 1);
        say(0, "a");
        assert_eq!(take(), 0, "sent already");
        say(0, "b");
        assert_eq!(complaints.lock().waiting.len(), 1, "another complaint");
        complaints.forget(&object(0));
        assert_eq!(take(), 0);
        for number in 0..2 * WAITING_MAX {
            say(number, "a");
        }
        assert_eq!(complaints.lock().waiting.len(), WAITING_MAX);
        assert_eq!(complaints.counts().1, WAITING_MAX as u64);
    }

    #[test]
    fn what_is_programmed_again_may_be_complained_of_again() {
        let complaints = Complaints::default();
        let set = |names: &[&str]| {
            let name = |name: &&str| (ServiceName { namespace: "d".into(), name: (*name).into() }, BTreeSet::from(["taken".into()]));
            complaints.set_unprogrammed(names.iter().map(name).collect());
            std::mem::take(&mut complaints.lock().waiting).into_keys().map(|(object, _)| object.name.to_string()).collect::<Vec<_>>()
        };
        complaints.say(&object(1), Cause::Written, None, "a".into());
        assert_eq!(set(&["1", "2"]), ["1", "1", "2"], "both causes");
        assert_eq!(set(&["1", "2"]), [""; 0]);
        assert_eq!(set(&["2"]), [""; 0]);
        assert_eq!(set(&["1", "2"]), ["1"]);
        assert_eq!(complaints.lock().said.len(), 3, "the other cause stands");
    }

    #[test]
    fn what_was_not_sent_waits_again() {
        let complaints = Complaints::default();
        let refused = |code| kube::Error::Api(Box::new(kube::core::Status { code, ..kube::core::Status::default() }));
        complaints.say(&object(0), Cause::Written, None, "a".into());
        let take = || complaints.lock().waiting.pop_first();
        let (topic, complaint) = take().unwrap();
        complaints.note(topic, complaint, Err(refused(503)));
        let (topic, complaint) = take().expect("once more");
        assert!(complaints.counts().2.is_some());
        complaints.note(topic.clone(), complaint.clone(), Err(refused(422)));
        assert_eq!((take(), complaints.counts().1), (None, 1), "never taken");
        complaints.forget_all(&object(0));
        complaints.note(topic, complaint, Err(refused(503)));
        assert_eq!(take(), None, "nobody wants to hear of it any more");
    }

    #[test]
    fn notes_fit_the_api() {
        assert_eq!(note(["a".to_owned(), "b".to_owned()]), "a; b");
        assert!(note(["ä".repeat(5_000)]).len() <= 1_024);
    }
}
