//! What we may do, and as whom.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_agent::apiserver::Access;
use ringway_agent::apiserver::status::Freshness;
use ringway_tests::kubernetes::ClusterOptions;

use crate::bed::{bed, service, service_path};

#[test]
fn what_is_forbidden_is_named_and_heals_when_it_is_granted() -> Result<()> {
    let options = ClusterOptions { granted: false, ..ClusterOptions::default() };
    bed("api_forbidden", options, |bed| {
        // Slices only: the rest goes on without the others.
        bed.cluster.create(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: slices}\n\
             rules: [{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}]\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: slices}\n\
             roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: slices}\nsubjects: [{kind: User, name: ringway}]\n",
        )?;
        bed.cluster.create(&service("web", 1))?;
        bed.start()?;
        bed.wait_problem(&["may not list services", "forbidden", "still followed"])?;
        bed.wait_problem(&["may not list nodes"])?;
        bed.wait_problem(&["may not list pods", "everything else is still followed"])?;
        bed.wait("slices are followed", |bed| {
            ensure!(bed.kind("EndpointSlice")?.freshness == Freshness::Fresh && bed.kind("EndpointSlice")?.error.is_none(), "not fresh");
            Ok(())
        })?;
        ensure!(bed.kind("Service")?.error.is_some_and(|error| error.contains("services")), "status names the resource");
        bed.cluster.grant()?;
        bed.wait_for("Service default/web")?;
        bed.wait_no_problem().map(drop)
    })
}

/// Certificates are replaced months before they end. Here the first one is a stranger's, so that what is seen is the second one's.
#[test]
fn a_client_certificate_that_is_replaced() -> Result<()> {
    bed("api_certificate", ClusterOptions::default(), |bed| {
        bed.cluster.set_client("stranger")?;
        bed.start_with(Access::new(Vec::new(), Some(bed.cluster.client_kubeconfig()?)))?;
        bed.wait_problem(&["may not list services", "stranger"])?;
        bed.cluster.set_client("ringway")?;
        bed.wait_fresh()?;
        bed.wait_no_problem()?;
        // Watches of a certificate that is replaced are taken up by the next one where they were.
        let lists = bed.kind("Service")?.lists_total;
        bed.cluster.set_client("ringway")?;
        std::thread::sleep(Duration::from_secs(12));
        bed.cluster.create(&service("web", 1))?;
        bed.wait_for("Service default/web")?;
        ensure!(bed.kind("Service")?.lists_total == lists, "listed anew");
        bed.wait_no_problem().map(drop)
    })
}

#[test]
fn a_token_that_is_replaced() -> Result<()> {
    bed("api_token", ClusterOptions::default(), |bed| {
        bed.start()?;
        bed.wait_fresh()?;
        bed.cluster.kill(0);
        bed.cluster.set_token("another-token")?;
        bed.cluster.launch(0, &[])?;
        bed.cluster.wait_ready(0)?;
        bed.wait_problem(&["does not accept our credentials"])?;
        let file = bed.cluster.token_file();
        std::fs::write(file.with_extension("new"), "another-token")?;
        std::fs::rename(file.with_extension("new"), &file)?;
        bed.cluster.create(&service("web", 1))?;
        bed.wait_for("Service default/web")?;
        bed.cluster.delete(&service_path("web"))?;
        bed.wait_gone("Service default/web")?;
        bed.wait_no_problem().map(drop)
    })
}
