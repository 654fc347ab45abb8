//! The source of objects alone, in a namespace with a control plane.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use ringway_agent::apiserver::status::{CandidateStatus, KindStatus};
use ringway_agent::apiserver::{Access, CredentialsOrigin, IsReady, Settings, Source, Status};
use ringway_model::{Change, Model};
use ringway_tests::kubernetes::{Cluster, ClusterOptions};
use ringway_tests::lab;

/// What must happen happens within this, on a busy machine, with pauses between attempts of up to 8 s.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Address of the control plane: of this node, as on a control-plane node.
pub const ADDRESS: &str = "10.0.0.12";

/// A control plane and, once started, a source.
pub struct Bed {
    pub cluster: Cluster,
    state_dir: PathBuf,
    runtime: tokio::runtime::Runtime,
    source: Option<Source>,
    /// What the source's changes add up to: `Service default/web`.
    pub tables: BTreeMap<String, Model>,
}

/// Runs a test in a namespace of its own: on a thread of its own, which enters it.
pub fn bed(name: &str, options: ClusterOptions, test: impl FnOnce(&mut Bed) -> Result<()> + Send) -> Result<()> {
    let run = || {
        lab::run(name, |lab| {
            let namespace = lab.namespace("cluster")?;
            namespace.ip(&format!("address add {ADDRESS}/32 dev lo"))?;
            let file = File::open(format!("/run/netns/{}", namespace.name())).context("cannot open the namespace")?;
            setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
            let cluster = Cluster::start(lab, &namespace, ADDRESS, options)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let state_dir = lab.state_dir().join("state");
            let mut bed = Bed { cluster, state_dir, runtime, source: None, tables: BTreeMap::new() };
            test(&mut bed)
        })
    };
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

impl Bed {
    /// Starts a source with the kubeconfig of server 0.
    pub fn start(&mut self) -> Result<()> {
        let kubeconfig = self.cluster.kubeconfig()?;
        self.start_with(Access::new(Vec::new(), Some(kubeconfig)))
    }

    /// With these URLs and the service account.
    pub fn start_at(&mut self, urls: &[String]) -> Result<()> {
        let endpoints = urls.iter().map(|url| url.parse().map_err(anyhow::Error::msg)).collect::<Result<_>>()?;
        let credentials = CredentialsOrigin::ServiceAccount(self.cluster.service_account_dir()?);
        self.start_with(Access { endpoints, credentials })
    }

    pub fn start_with(&mut self, access: Access) -> Result<()> {
        let settings = Settings { access, state_dir: self.state_dir.clone(), node_name: "node1".into(), daemonset: None };
        self.source = Some(self.runtime.block_on(Source::start(settings, None))?);
        Ok(())
    }

    /// Removes the startup taint of node1 once `is_ready` says so.
    pub fn start_removing_taint(&mut self, is_ready: IsReady) -> Result<()> {
        let access = Access::new(Vec::new(), Some(self.cluster.kubeconfig()?));
        let settings = Settings { access, state_dir: self.state_dir.clone(), node_name: "node1".into(), daemonset: None };
        self.source = Some(self.runtime.block_on(Source::start(settings, Some(is_ready)))?);
        Ok(())
    }

    /// Ends the source in order; the tables of the next one begin empty.
    pub fn stop(&mut self) {
        self.source = None;
        self.tables.clear();
    }

    pub fn state_dir(&self) -> &PathBuf {
        &self.state_dir
    }

    pub fn source(&self) -> Result<&Source> {
        self.source.as_ref().context("no source was started")
    }

    pub fn status(&self) -> Result<Status> {
        Ok(self.source()?.status())
    }

    pub fn kind(&self, kind: &str) -> Result<KindStatus> {
        self.status()?.kinds.into_iter().find(|status| status.kind == kind).with_context(|| format!("no kind {kind}"))
    }

    pub fn candidate(&self, url: &str) -> Result<CandidateStatus> {
        self.status()?.candidates.into_iter().find(|status| status.url == url).with_context(|| format!("no candidate {url}"))
    }

    pub fn ensure_in_force(&self, url: &str) -> Result<()> {
        ensure!(self.candidate(url)?.in_force, "{url} is not in force: {:#?}", self.status()?.candidates);
        Ok(())
    }

    /// Everything that is wrong, as sentences.
    pub fn problems(&self) -> Result<Vec<String>> {
        let mut problems = self.source()?.problems();
        problems.extend(self.source()?.object_problems().iter().map(ToString::to_string));
        Ok(problems)
    }

    /// Adds the source's changes to the tables.
    pub fn drain(&mut self) -> Result<()> {
        for change in self.source()?.take() {
            match change {
                Change::Upsert(model) => {
                    let object = model.object_ref();
                    self.tables.insert(format!("{} {}/{}", object.kind, object.namespace, object.name), model);
                }
                Change::Delete(object) => {
                    self.tables.remove(&format!("{} {}/{}", object.kind, object.namespace, object.name));
                }
            }
        }
        Ok(())
    }

    pub fn wait(&mut self, what: &str, probe: impl Fn(&Bed) -> Result<()>) -> Result<Duration> {
        let start = Instant::now();
        loop {
            self.drain()?;
            match probe(self) {
                Ok(()) => return Ok(start.elapsed()),
                Err(error) if start.elapsed() > PATIENCE => {
                    let problems = self.problems()?;
                    return Err(error).with_context(|| format!("{what}: not within {PATIENCE:?}; {problems:#?}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    pub fn wait_fresh(&mut self) -> Result<()> {
        self.wait("all objects are listed", |bed| {
            for kind in bed.status()?.kinds {
                ensure!(kind.freshness == ringway_agent::apiserver::status::Freshness::Fresh, "{kind:?}");
            }
            Ok(())
        })
        .map(drop)
    }

    pub fn wait_for(&mut self, key: &str) -> Result<Duration> {
        self.wait(&format!("{key} is there"), |bed| {
            ensure!(bed.tables.contains_key(key), "{:?}", bed.tables.keys());
            Ok(())
        })
    }

    pub fn wait_gone(&mut self, key: &str) -> Result<Duration> {
        self.wait(&format!("{key} is gone"), |bed| {
            ensure!(!bed.tables.contains_key(key), "it is still there");
            Ok(())
        })
    }

    /// A problem that contains all of these words.
    pub fn wait_problem(&mut self, words: &[&str]) -> Result<Duration> {
        self.wait(&format!("a problem with {words:?}"), |bed| {
            let problems = bed.problems()?;
            ensure!(problems.iter().any(|problem| words.iter().all(|word| problem.contains(word))), "{problems:#?}");
            Ok(())
        })
    }

    pub fn wait_no_problem(&mut self) -> Result<Duration> {
        self.wait("no problem", |bed| {
            let problems = bed.problems()?;
            ensure!(problems.is_empty(), "{problems:#?}");
            Ok(())
        })
    }
}

/// A Service with a ClusterIP that ends in `host`.
pub fn service(name: &str, host: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{clusterIP: 10.96.7.{host}, ports: [{{port: 80}}]}}\n"
    )
}

/// A slice of a service with one endpoint.
pub fn slice(name: &str, service: &str, address: &str, port: u16) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}, namespace: default, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: IPv4\n\
         ports: [{{name: https, port: {port}}}]\nendpoints: [{{addresses: ['{address}'], conditions: {{ready: true}}}}]\n"
    )
}

/// Where a Service stands in the API.
pub fn service_path(name: &str) -> String {
    format!("/api/v1/namespaces/default/services/{name}")
}

/// Where a slice stands in the API.
pub fn slice_path(name: &str) -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{name}")
}
