use super::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn candidates(urls: &[&str], now: Instant) -> (Candidates, Vec<CandidateId>) {
    let mut candidates = Candidates::new(urls.iter().map(|url| url.parse().unwrap()), now);
    candidates.refresh_local(|endpoint| endpoint.host == "127.0.0.1");
    let ids = candidates.list().iter().map(|candidate| candidate.id).collect();
    (candidates, ids)
}

fn url(candidates: &Candidates) -> Option<String> {
    candidates.in_force().and_then(|id| candidates.get(id)).map(|candidate| candidate.endpoint.to_string())
}

#[test]
fn the_local_one_first_then_the_given_then_the_learnt_then_the_service() {
    let now = Instant::now();
    let (mut all, given) = candidates(&["https://192.0.2.1:6443", "https://127.0.0.1:6443"], now);
    all.learn(&["192.0.2.2:6443".parse().unwrap()], &["192.0.2.3:443".parse().unwrap()], now);
    let ids: Vec<CandidateId> = all.list().iter().map(|candidate| candidate.id).collect();
    // Whatever addresses this machine has.
    all.refresh_local(|endpoint| endpoint.host == "127.0.0.1");
    assert!(!all.choose(now), "nobody is known to be up");
    for (id, latency) in ids.iter().zip([40, 50, 2, 1]) {
        all.succeeded(*id, latency * MS, now);
    }
    assert!(all.choose(now));
    assert_eq!(all.in_force(), Some(given[1]), "local, though slowest");
    for expected in ["https://192.0.2.1:6443", "https://192.0.2.2:6443", "https://192.0.2.3:443"] {
        all.failed(all.in_force().unwrap(), "gone".into(), false, now);
        assert!(all.choose(now));
        assert_eq!(url(&all).as_deref(), Some(expected));
    }
    all.failed(ids[3], "gone".into(), false, now);
    assert!(all.choose(now));
    assert_eq!(all.in_force(), None);
}

#[test]
fn a_better_one_is_returned_to_when_it_is_settled() {
    let mut now = Instant::now();
    let (mut all, ids) = candidates(&["https://127.0.0.1:6443", "https://192.0.2.1:6443"], now);
    all.failed(ids[0], "refused".into(), false, now);
    all.succeeded(ids[1], MS, now);
    all.choose(now);
    assert_eq!(all.in_force(), Some(ids[1]));
    all.succeeded(ids[0], MS, now);
    assert!(!all.choose(now), "it has just come back");
    now += SETTLED - S;
    all.failed(ids[0], "refused again".into(), false, now);
    all.succeeded(ids[0], MS, now);
    now += SETTLED - S;
    assert!(!all.choose(now), "it flaps");
    now += S;
    assert!(all.choose(now));
    assert_eq!(all.in_force(), Some(ids[0]));
}

#[test]
fn among_equals_the_quickest_and_then_it_stays() {
    let now = Instant::now();
    let (mut all, ids) = candidates(&["https://192.0.2.1", "https://192.0.2.2"], now);
    all.succeeded(ids[0], 9 * MS, now);
    all.succeeded(ids[1], 3 * MS, now);
    all.choose(now);
    assert_eq!(all.in_force(), Some(ids[1]));
    all.succeeded(ids[0], MS, now + 60 * S);
    assert!(!all.choose(now + 60 * S), "moving cuts watches");
}

#[test]
fn one_that_answers_is_the_last_resort() {
    let now = Instant::now();
    let (mut all, ids) = candidates(&["https://192.0.2.1", "https://192.0.2.2"], now);
    all.failed(ids[0], "refused".into(), false, now);
    all.failed(ids[1], "etcd failed".into(), true, now);
    all.choose(now);
    assert_eq!(all.in_force(), Some(ids[1]));
    all.succeeded(ids[0], MS, now);
    all.choose(now);
    assert_eq!(all.in_force(), Some(ids[0]), "up at last");
}

#[test]
fn asked_again_for_ever_but_not_without_pause() {
    let mut now = Instant::now();
    let (mut all, ids) = candidates(&["https://192.0.2.1"], now);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert_eq!(all.take_due(now).len(), 1);
        assert!(all.take_due(now).is_empty(), "it is being asked");
        assert_eq!(all.next_due(), None);
        all.failed(ids[0], "refused".into(), false, now);
        let next = all.next_due().unwrap();
        pauses.push(next - now);
        now = next;
    }
    assert_eq!((pauses[0], pauses[7]), (DOWN_FIRST, DOWN_LAST));
    all.succeeded(ids[0], MS, now);
    assert_eq!(all.next_due(), Some(now + OTHERS_EVERY), "not in force yet");
    all.suspect(ids[0], now);
    assert_eq!(all.next_due(), Some(now));
}

#[test]
fn what_is_learnt_comes_and_goes_and_the_given_stay() {
    let now = Instant::now();
    let (mut all, given) = candidates(&["https://192.0.2.1:6443#name", "https://192.0.2.1:6443"], now);
    assert_eq!(given.len(), 1, "one place");
    let (one, two) = ("192.0.2.1:6443".parse().unwrap(), "192.0.2.2:6443".parse().unwrap());
    assert!(all.learn(&[one, two], &["10.96.0.1:443".parse().unwrap()], now).is_empty());
    assert_eq!(all.list().len(), 3, "the given one is not learnt once more");
    let second = all.list()[1].id;
    all.succeeded(second, MS, now);
    all.choose(now);
    assert_eq!(all.learn(&[one], &[], now).len(), 2);
    assert!(all.choose(now), "the one in force is gone");
    assert_eq!(all.in_force(), None);
    // A probe that was under way meanwhile.
    all.succeeded(second, MS, now);
    all.failed(second, "late".into(), false, now);
    assert_eq!(all.list().len(), 1);
}

/// In a pod, the ClusterIP is what the environment gives: good to begin with, but not to stay with.
#[test]
fn a_given_cluster_ip_is_the_last_choice_once_endpoints_are_learnt() {
    let now = Instant::now();
    let (mut all, given) = candidates(&["https://10.96.0.1:443"], now);
    all.succeeded(given[0], MS, now);
    all.choose(now);
    assert_eq!(all.in_force(), Some(given[0]));
    let (endpoint, service) = ("192.0.2.2:6443".parse().unwrap(), "10.96.0.1:443".parse().unwrap());
    all.learn(&[endpoint], &[service], now);
    all.refresh_local(|_| false);
    let direct = all.list()[1].id;
    all.succeeded(direct, 9 * MS, now);
    assert!(all.choose(now));
    assert_eq!(all.in_force(), Some(direct));
    all.learn(&[], &[], now);
    all.choose(now);
    assert_eq!(all.in_force(), Some(given[0]), "what was given is never forgotten");
}
