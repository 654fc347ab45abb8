//! `ringway run`: from the preflight to the last route removed.
//!
//! ```text
//! preflight ─▶ lock, bpffs ─▶ hostlink ─▶ kernel's tables, manifests ─▶ programs and flow table (taken over) ─▶ edge attached
//!   ─▶ workers with the first snapshot ─▶ filter maps ─▶ routes ─▶ hostlink probed ─▶ ready ─▶ events ─▶ stop in order
//! ```

mod announce;
mod answers;
mod bonds;
mod clients;
mod control;
mod doubted;
mod gone;
mod hops;
mod misplaced;
mod node;
mod notices;
mod objects;
mod packets;
mod plan;
mod probe;
mod problems;
mod rework;
mod sources;
mod start;
mod stopped;

use std::process::ExitCode;

use anyhow::Context;

pub use self::plan::workers_default;
use self::sources::StopSignals;
use crate::config::{Config, OnStop};
use crate::health::Servers;
use crate::lock::{self, Lock};
use crate::{cleanup, preflight};

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// The start failed, or the kernel's tables cannot be followed any more. In the second case, and if an earlier process's flows were taken
/// over, the programs stay attached: established flows live on until the next start.
pub fn run(config: Config) -> anyhow::Result<ExitCode> {
    ringway_io::keep_little_free_memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the control loop")?;
    runtime.block_on(async {
        lock::outlast_the_dying(&config.state_dir).await;
        let facts = preflight::facts::gather(&config).await?;
        let findings = preflight::rules::judge(&config, &facts);
        for finding in &findings {
            match finding.severity {
                preflight::Severity::Error => tracing::error!("{finding}"),
                preflight::Severity::Warning => tracing::warn!("{finding}"),
                preflight::Severity::Note => tracing::info!("{finding}"),
            }
        }
        if preflight::errors(&findings) > 0 {
            anyhow::bail!("{}", preflight::summary(&findings));
        }
        let mut signals = StopSignals::new()?;
        let (state_dir, on_stop) = (config.state_dir.clone(), config.on_stop);
        std::fs::create_dir_all(&state_dir).with_context(|| format!("cannot create the state directory {}", state_dir.display()))?;
        let lock = Lock::acquire(&state_dir)?;
        let servers = Servers::start(&config)?;
        let started = tokio::select! {
            started = start::start(config, &facts, servers) => started,
            signal = signals.received() => {
                tracing::info!("{signal} during the start: stopping");
                // If there was nothing before us, there is nothing to keep.
                if on_stop == OnStop::Remove || facts.leftovers.is_empty() {
                    cleanup::remove_all(&state_dir).await?;
                }
                return Ok(ExitCode::SUCCESS);
            }
        };
        let (mut control, mut sources) = match started {
            Ok(started) => started,
            Err(error) => {
                // If there was nothing before us, there is nothing to keep.
                if facts.leftovers.is_empty() {
                    cleanup::remove_all(&state_dir).await.map_err(|cleanup| tracing::warn!("{cleanup:#}")).ok();
                }
                return Err(error);
            }
        };
        let signal = control.serve(&mut sources, &mut signals).await?;
        tracing::info!("{signal}: stopping");
        control.stop().await?;
        drop(lock);
        Ok(ExitCode::SUCCESS)
    })
}
