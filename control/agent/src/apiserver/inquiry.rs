//! Asking about single pods: whether one that left its Service is gone, or only not selected any more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use ringway_model::PodRef;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

/// Questions that wait; nobody asks more at a time than endpoints leave at once, and whoever is not heard leaves the connections alone.
const WAITING_MAX: usize = 4096;
/// A node that goes takes a hundred pods with it.
const AT_ONCE: usize = 16;
/// An apiserver that fails over answers within seconds. Later than this, nobody would call it prompt any more.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

struct Question {
    namespace: Arc<str>,
    pod: PodRef,
    answer: oneshot::Sender<bool>,
}

/// Where questions are asked.
pub struct Inquiries {
    questions: mpsc::Sender<Question>,
    waiting: Mutex<Option<mpsc::Receiver<Question>>>,
    problem: Mutex<Option<String>>,
}

impl Default for Inquiries {
    fn default() -> Inquiries {
        let (questions, waiting) = mpsc::channel(WAITING_MAX);
        Inquiries { questions, waiting: Mutex::new(Some(waiting)), problem: Mutex::default() }
    }
}

impl Inquiries {
    /// Whether the apiserver says that the pod does not exist or has ended. False as long as nobody knows.
    pub async fn is_gone(&self, namespace: Arc<str>, pod: PodRef) -> bool {
        let (answer, answered) = oneshot::channel();
        let asked = self.questions.try_send(Question { namespace, pod, answer });
        asked.is_ok() && answered.await.unwrap_or(false)
    }

    /// Why nothing can be asked.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers questions, for ever. Once.
    pub async fn answer(&self, client: Client) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(waiting) = waiting else { return std::future::pending().await };
        let questions = futures::stream::unfold(waiting, async |mut waiting| Some((waiting.recv().await?, waiting)));
        let each = questions.for_each_concurrent(AT_ONCE, async |question| {
            let pods: Api<Pod> = Api::namespaced(client.clone(), &question.namespace);
            let is_gone = self.ask(&pods, &question.pod).await;
            // Who does not wait any more does not mind.
            let _ = question.answer.send(is_gone);
        });
        each.await;
        std::future::pending().await
    }

    async fn ask(&self, pods: &Api<Pod>, pod: &PodRef) -> bool {
        for _ in 0..ATTEMPTS {
            match pods.get_opt(&pod.name).await {
                Ok(found) => {
                    *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    return found.is_none_or(|found| has_ended(&found, pod));
                }
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    let sentence = format!(
                        "connections to endpoints that are gone are left to time out: the apiserver forbids to get pods ({}); allow the verb \
                         `get` on the resource `pods`",
                        status.message
                    );
                    if self.problem.lock().unwrap_or_else(PoisonError::into_inner).replace(sentence.clone()).as_ref() != Some(&sentence) {
                        tracing::warn!("{sentence}");
                    }
                    return false;
                }
                Err(error) => {
                    tracing::debug!("cannot ask for pod {}: {error}", pod.name);
                    sleep(PAUSE).await;
                }
            }
        }
        false
    }
}

/// Another pod has the name now, or this one will never run again.
fn has_ended(found: &Pod, pod: &PodRef) -> bool {
    let is_other = found.metadata.uid.as_deref().is_some_and(|uid| PodRef::uid_of(uid) != Some(pod.uid));
    let phase = found.status.as_ref().and_then(|status| status.phase.as_deref());
    is_other || matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_ended_that_is_another_or_runs_no_more() {
        let uid = "11111111-1111-4111-8111-111111111111";
        let pod = PodRef { name: "web-1".into(), uid: PodRef::uid_of(uid).expect("a UUID") };
        let found = |uid: &str, phase: &str| {
            serde_json::from_value(serde_json::json!({"metadata": {"name": "web-1", "uid": uid}, "status": {"phase": phase}}))
                .expect("a pod")
        };
        for (uid, phase, expected) in [
            (uid, "Running", false),
            (uid, "Pending", false),
            (uid, "Unknown", false),
            (uid, "Failed", true),
            (uid, "Succeeded", true),
            ("22222222-2222-4222-8222-222222222222", "Running", true),
        ] {
            assert_eq!(has_ended(&found(uid, phase), &pod), expected, "{uid} {phase}");
        }
    }
}
