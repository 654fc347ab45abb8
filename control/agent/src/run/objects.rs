//! Both sources of objects, manifests and apiserver, as one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ringway_model::{Change, Folder, Holders, PodModel, Problem, ServiceName};

use crate::apiserver::{self, IsReady, Source, Status};
use crate::config::Config;
use crate::health::{self, Board};
use crate::manifests::Manifests;

/// How long the start waits for the apiserver. With the objects of an earlier process at hand, only as long as an apiserver that is there
/// needs; without, the tables would be empty, and established flows through workers end.
const PATIENCE_KNOWN: Duration = Duration::from_secs(2);
const PATIENCE_UNKNOWN: Duration = Duration::from_secs(8);

/// See the module.
pub struct Objects {
    manifests: Option<(Manifests, Folder)>,
    apiserver: Option<Arc<Source>>,
    holders: Holders,
}

impl Objects {
    /// Begins to follow the apiserver and waits for its objects for a while; the folder is read by [`Objects::scan`].
    ///
    /// # Errors
    /// The credentials for the apiserver cannot be read.
    pub async fn start(config: &Config, board: &Arc<Board>) -> anyhow::Result<Objects> {
        let manifests = config.manifests.as_ref().map(|dir| (Manifests::new(dir), Folder::default()));
        let mut objects = Objects { manifests, apiserver: None, holders: Holders::default() };
        if let Some(access) = config.apiserver.clone() {
            let (state_dir, node_name, daemonset) = (config.state_dir.clone(), config.node_name.clone(), config.daemonset.clone());
            let board = Arc::clone(board);
            let is_ready: IsReady = Arc::new(move || {
                let board = Arc::clone(&board);
                Box::pin(async move { health::is_ready(&board).await })
            });
            let is_ready = config.remove_taint.then_some(is_ready);
            let source = Source::start(apiserver::Settings { access, state_dir, node_name, daemonset }, is_ready).await?;
            let patience = if source.has_known() { PATIENCE_KNOWN } else { PATIENCE_UNKNOWN };
            if !source.settled(patience).await {
                let meanwhile = if source.has_known() { "what an earlier process knew is served" } else { "nothing of it is known" };
                tracing::warn!("not all objects of the apiserver are there within {patience:?}: {meanwhile} meanwhile");
            }
            objects.apiserver = Some(Arc::new(source));
        }
        Ok(objects)
    }

    /// Looks at the folder of manifests.
    pub fn scan(&mut self) -> Vec<Change> {
        let Some((manifests, folder)) = &mut self.manifests else { return Vec::new() };
        let scan = manifests.scan();
        let mut changes = Vec::new();
        for name in &scan.removed {
            changes.extend(folder.remove(name));
        }
        for file in scan.updated {
            changes.extend(folder.update(file));
        }
        self.holders.manifests(changes)
    }

    /// What has come from the apiserver since the last time.
    pub fn take(&mut self) -> Vec<Change> {
        let Some(source) = &self.apiserver else { return Vec::new() };
        let changes = source.take();
        // Nobody else has objects.
        if self.manifests.is_none() { changes } else { self.holders.apiserver(changes) }
    }

    /// This node's pods, as far as an apiserver tells now.
    pub fn pods(&self) -> Vec<Arc<PodModel>> {
        self.apiserver.as_ref().map_or_else(Vec::new, |source| source.pods())
    }

    /// Services that are not programmed as written, and what of them: Events say so where the apiserver has them.
    pub fn tell_unprogrammed(&self, services: BTreeMap<ServiceName, BTreeSet<String>>) {
        if let Some(source) = &self.apiserver {
            source.tell_unprogrammed(services);
        }
    }

    /// To be waited for.
    pub fn apiserver(&self) -> Option<Arc<Source>> {
        self.apiserver.clone()
    }

    /// `None`: no apiserver is followed.
    pub fn apiserver_status(&self) -> Option<Status> {
        self.apiserver.as_ref().map(|source| source.status())
    }

    /// Whether there are objects to serve: from an apiserver, now or once, or from a folder.
    pub fn are_known(&self) -> bool {
        self.manifests.is_some() || self.apiserver_status().is_some_and(|status| status.is_serving())
    }

    /// What is wrong with the folder and its files, apart from what stands in them.
    pub fn manifest_problems(&self) -> Vec<String> {
        self.manifests.iter().flat_map(|(manifests, _)| manifests.problems().map(ToString::to_string)).collect()
    }

    /// What is wrong between us and the apiserver.
    pub fn apiserver_problems(&self) -> Vec<String> {
        self.apiserver.as_ref().map_or_else(Vec::new, |source| source.problems())
    }

    /// What is wrong with objects, of both sources and between them.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.manifests.as_ref().map_or_else(Vec::new, |(_, folder)| folder.problems());
        problems.extend(self.apiserver.iter().flat_map(|source| source.object_problems()));
        problems.extend(self.holders.problems());
        problems
    }

    /// Ends the apiserver's thread and keeps on disk what it knew last.
    pub fn stop(&self) {
        if let Some(source) = &self.apiserver {
            source.stop();
        }
    }
}
