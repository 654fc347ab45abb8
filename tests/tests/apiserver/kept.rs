//! The objects on disk.

use anyhow::{Result, ensure};
use ringway_agent::apiserver::status::Freshness;
use ringway_agent::apiserver::{cache_path, corrupt_cache_path};
use ringway_tests::kubernetes::ClusterOptions;

use crate::bed::{bed, service, service_path};

#[test]
fn a_start_without_apiserver_is_stale_and_then_fresh() -> Result<()> {
    let options = ClusterOptions { servers: 2, ..ClusterOptions::default() };
    bed("api_kept", options, |bed| {
        bed.cluster.create(&[service("stays", 1), service("goes", 2)].join("---\n"))?;
        bed.start()?;
        bed.wait_fresh()?;
        bed.stop();
        bed.cluster.kill(0);
        bed.cluster.delete(&service_path("goes"))?;

        bed.start()?;
        bed.drain()?;
        for name in ["stays", "goes"] {
            ensure!(bed.tables.contains_key(&format!("Service default/{name}")), "{name} is not served from disk");
        }
        ensure!(bed.kind("Service")?.freshness == Freshness::Stale && bed.source()?.has_known(), "{:?}", bed.kind("Service")?);
        bed.wait_problem(&["stale", "Service"])?;
        bed.wait_problem(&["no apiserver answers"])?;
        ensure!(bed.status()?.is_serving(), "stale objects are served");

        bed.cluster.launch(0, &[])?;
        bed.wait_fresh()?;
        bed.wait_gone("Service default/goes")?;
        ensure!(bed.tables.contains_key("Service default/stays"), "what is there stays");
        bed.wait_no_problem()?;

        // Without order: what was written meanwhile counts.
        bed.stop();
        let path = cache_path(bed.state_dir());
        let text = std::fs::read_to_string(&path)?;
        ensure!(!text.contains("\"goes\"") && text.contains("\"stays\""), "{text}");
        std::fs::write(&path, &text[..text.len() / 2])?;
        bed.start()?;
        ensure!(corrupt_cache_path(bed.state_dir()).is_file(), "it is set aside");
        bed.wait_problem(&["objects.json", "cannot be used"])?;
        bed.wait_fresh()?;
        bed.wait_for("Service default/stays").map(drop)
    })
}
