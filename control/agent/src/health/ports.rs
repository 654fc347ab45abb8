//! Health check ports of services: one listener for each service and family (and address), opened and closed live.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ringway_model::{HealthCheck, IpFamily, ServiceName};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use super::answers;
use super::board::{Board, PortProblems};
use crate::http;

/// How often a port that could not be opened is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Load balancers have a few probes at a time.
const CONNECTIONS_MAX: usize = 32;

/// What the control loop tells the ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortsChange {
    /// Health checks that appeared, changed or (`None`) went.
    Checks(Vec<(View, Option<HealthCheck>)>),
    /// The addresses of the node on which the ports answer; the unspecified one of a family stands for all of it.
    Addresses(Vec<IpAddr>),
}

/// A service in one family: each counts its own endpoints, and is asked at its own addresses.
type View = (ServiceName, IpFamily);

/// Owns the listeners; dropping it closes them.
pub struct Ports {
    board: Arc<Board>,
    addresses: BTreeSet<IpAddr>,
    wanted: BTreeMap<View, HealthCheck>,
    open: BTreeMap<View, Open>,
    problems: PortProblems,
}

struct Open {
    port: NonZeroU16,
    local_endpoints: Arc<AtomicUsize>,
    listeners: Vec<JoinHandle<()>>,
}

impl Ports {
    pub fn new(board: Arc<Board>) -> Ports {
        let (wanted, open, problems) = Default::default();
        let addresses = IpFamily::BOTH.map(IpFamily::unspecified).into();
        Ports { board, addresses, wanted, open, problems }
    }

    /// Follows the changes until nobody can send any.
    pub async fn follow(mut self, mut changes: UnboundedReceiver<PortsChange>) {
        loop {
            let change = tokio::select! {
                change = changes.recv() => match change {
                    Some(change) => Some(change),
                    None => return,
                },
                () = tokio::time::sleep(RETRY), if !self.problems.is_empty() => None,
            };
            match change {
                Some(PortsChange::Checks(checks)) => self.take(checks),
                Some(PortsChange::Addresses(addresses)) => self.move_to(addresses).await,
                None => {}
            }
            self.reconcile().await;
        }
    }

    fn take(&mut self, checks: Vec<(View, Option<HealthCheck>)>) {
        for (view, check) in checks {
            match check {
                Some(check) => self.wanted.insert(view, check),
                None => self.wanted.remove(&view),
            };
        }
    }

    async fn move_to(&mut self, addresses: Vec<IpAddr>) {
        let addresses = addresses.into_iter().collect();
        if addresses != self.addresses {
            self.addresses = addresses;
            for (_, open) in std::mem::take(&mut self.open) {
                open.close().await;
            }
        }
    }

    /// Closes what is not wanted any more before anything is opened: a port may change hands.
    async fn reconcile(&mut self) {
        let unwanted = |(view, open): (&View, &Open)| {
            let keeps = self.wanted.get(view).is_some_and(|check| check.port == open.port);
            (!keeps).then(|| view.clone())
        };
        let unwanted: Vec<View> = self.open.iter().filter_map(unwanted).collect();
        for view in unwanted {
            if let Some(open) = self.open.remove(&view) {
                tracing::info!("health check port {} of Service {} closed over {}", open.port, view.0, view.1);
                open.close().await;
            }
        }
        self.problems.clear();
        for (view, check) in &self.wanted {
            if let Some(open) = self.open.get(view) {
                open.local_endpoints.store(check.local_endpoints, Ordering::Relaxed);
                continue;
            }
            match open(view, *check, &self.addresses, &self.board) {
                Ok(open) => {
                    tracing::info!("health check port {} of Service {} open over {}", check.port, view.0, view.1);
                    self.open.insert(view.clone(), open);
                }
                Err(problem) => drop(self.problems.insert(view.clone(), problem)),
            }
        }
        self.board.set_port_problems(self.problems.clone());
    }
}

impl Open {
    /// Returns when the port is free again.
    async fn close(mut self) {
        for listener in self.listeners.drain(..) {
            listener.abort();
            // It was aborted: that is the error.
            let _ = listener.await;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.listeners.iter().for_each(JoinHandle::abort);
    }
}

/// Opens the port on all addresses of the family, or on none and says why.
fn open((service, family): &View, check: HealthCheck, addresses: &BTreeSet<IpAddr>, board: &Arc<Board>) -> Result<Open, String> {
    let mut listeners = Vec::new();
    for address in addresses.iter().filter(|address| IpFamily::of(address) == *family) {
        let at = SocketAddr::new(*address, check.port.get());
        match http::bind(at).and_then(tokio::net::TcpListener::from_std) {
            Ok(listener) => listeners.push(listener),
            // A node without IPv6: nobody asks there.
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
            Err(error) => {
                return Err(format!(
                    "Service {service}: health check port {} cannot be opened at {at}: {error}; free the port (`ss -ltnp sport = :{}` \
                     shows who has it) or change spec.healthCheckNodePort; it is tried again",
                    check.port, check.port
                ));
            }
        }
    }
    let local_endpoints = Arc::new(AtomicUsize::new(check.local_endpoints));
    let serve = |listener| {
        let (service, board, count) = (service.clone(), Arc::clone(board), Arc::clone(&local_endpoints));
        let answer = move |_path| {
            let answer = answers::service(&service, count.load(Ordering::Relaxed), board.health().is_serving());
            std::future::ready(answer)
        };
        tokio::spawn(http::serve(listener, CONNECTIONS_MAX, answer))
    };
    let listeners = listeners.into_iter().map(serve).collect();
    Ok(Open { port: check.port, local_endpoints, listeners })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::net::TcpListener;

    use crate::metrics::KubeProxyMetrics;

    fn ports() -> (Ports, Arc<Board>) {
        let board = Arc::new(Board::new(KubeProxyMetrics::new().unwrap()));
        let mut ports = Ports::new(Arc::clone(&board));
        ports.addresses = BTreeSet::from([IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        (ports, board)
    }

    fn name(name: &str) -> View {
        (ServiceName { namespace: "default".into(), name: name.into() }, IpFamily::V4)
    }

    /// A port that is free now.
    async fn free() -> NonZeroU16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap()
    }

    async fn is_open(port: NonZeroU16) -> bool {
        tokio::net::TcpStream::connect(("127.0.0.1", port.get())).await.is_ok()
    }

    #[tokio::test]
    async fn a_port_changes_hands_and_reopens() {
        let (mut ports, board) = ports();
        let check = HealthCheck { port: free().await, local_endpoints: 1 };
        ports.take(vec![(name("a"), Some(check))]);
        ports.reconcile().await;
        assert!(is_open(check.port).await);
        // In one change, the taker sorting before the giver.
        ports.take(vec![(name("a"), None), (name("0"), Some(check))]);
        ports.reconcile().await;
        assert!(ports.open.contains_key(&name("0")) && is_open(check.port).await && board.port_problems().is_empty());
        ports.take(vec![(name("0"), None)]);
        ports.reconcile().await;
        assert!(!is_open(check.port).await);
        ports.take(vec![(name("0"), Some(check))]);
        ports.reconcile().await;
        assert!(is_open(check.port).await);
        let other = HealthCheck { port: free().await, local_endpoints: 1 };
        ports.take(vec![(name("0"), Some(other))]);
        ports.reconcile().await;
        assert!(is_open(other.port).await && !is_open(check.port).await, "another number");
    }

    #[tokio::test]
    async fn ports_move_with_the_nodes_addresses() {
        let (mut ports, _) = ports();
        let check = HealthCheck { port: free().await, local_endpoints: 1 };
        ports.take(vec![(name("a"), Some(check))]);
        let answers = async |address: &str| tokio::net::TcpStream::connect((address, check.port.get())).await.is_ok();
        for (addresses, open) in
            [(vec![[127, 0, 0, 2].into()], (false, true)), (Vec::new(), (false, false)), (vec![[0, 0, 0, 0].into()], (true, true))]
        {
            ports.move_to(addresses.clone()).await;
            ports.reconcile().await;
            assert_eq!((answers("127.0.0.1").await, answers("127.0.0.2").await), open, "{addresses:?}");
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_this_services_problem_until_it_is_free() {
        let (mut ports, board) = ports();
        let stranger = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = NonZeroU16::new(stranger.local_addr().unwrap().port()).unwrap();
        let free = free().await;
        let check = |port| Some(HealthCheck { port, local_endpoints: 1 });
        ports.take(vec![(name("unlucky"), check(port)), (name("lucky"), check(free))]);
        ports.reconcile().await;
        assert!(is_open(free).await);
        let problems = board.port_problems();
        let sentence = problems.get(&name("unlucky")).expect("a problem");
        assert!(problems.len() == 1 && sentence.contains("default/unlucky") && sentence.contains(&port.to_string()), "{problems:?}");
        drop(stranger);
        ports.reconcile().await;
        assert!(board.port_problems().is_empty() && ports.open.contains_key(&name("unlucky")));
    }

    /// Both listen to all addresses at once, and each says what it counts.
    #[tokio::test]
    async fn each_family_answers_for_itself() {
        let (mut ports, board) = ports();
        ports.move_to(IpFamily::BOTH.map(IpFamily::unspecified).to_vec()).await;
        let port = free().await;
        let (service, _) = name("a");
        let checks = [(IpFamily::V4, 1), (IpFamily::V6, 2)];
        let checks = checks.map(|(family, local_endpoints)| ((service.clone(), family), Some(HealthCheck { port, local_endpoints })));
        ports.take(checks.to_vec());
        ports.reconcile().await;
        assert_eq!(board.port_problems(), PortProblems::new());
        let says = async |address: IpAddr| {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut stream = tokio::net::TcpStream::connect((address, port.get())).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text.lines().find_map(|line| Some(line.strip_prefix("x-load-balancing-endpoint-weight: ")?.to_owned()))
        };
        assert_eq!(says(Ipv4Addr::LOCALHOST.into()).await.as_deref(), Some("1"));
        assert_eq!(says(Ipv6Addr::LOCALHOST.into()).await.as_deref(), Some("2"));
        ports.take(vec![((service, IpFamily::V4), None)]);
        ports.reconcile().await;
        assert!(!is_open(port).await && says(Ipv6Addr::LOCALHOST.into()).await.is_some());
    }
}
