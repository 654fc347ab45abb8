//! The engine against the kernel's own NAT: the same random packets go through a router that nftables makes of a namespace, and through the
//! engine with tables that say the same. Whatever leaves the two is compared; where they differ on purpose stands in `differences.rs`, with the
//! reason.
//!
//! Every run follows from its seed: `RINGWAY_SEEDS=100` tries so many, `RINGWAY_SEED=17` only that one. Needs root; packets stay in
//! namespaces of the test.
#![forbid(unsafe_code)]

mod differences;
mod event;
mod generate;
mod kernel;
mod node;
mod packet;
mod plan;
#[path = "../../../dataplane/engine/src/random.rs"]
mod random;
mod view;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use ringway_tests::lab;

use differences::DIFFERENCES;
use event::Event;
use generate::Generator;
use kernel::Kernel;
use node::{Node, PAUSE_TICKS};
use view::{Outcome, View};

const SEEDS: u64 = 5;
const EVENTS: usize = 2000;

/// How often each difference was met.
type Met = BTreeMap<&'static str, usize>;

fn run(seed: u64, met: &mut Met) -> Result<()> {
    lab::run(&format!("nat-{seed}"), |lab| {
        let mut kernel = Kernel::new(lab)?;
        let mut node = Node::new(seed);
        let mut generator = Generator::new(seed);
        let (mut of_kernel, mut of_engine) = (View::default(), View::default());
        let mut failures = Vec::new();
        for _ in 0..EVENTS {
            let event = generator.next([&of_kernel, &of_engine]);
            node.wait(PAUSE_TICKS);
            match compare(&event, &mut kernel, &mut of_kernel, &mut node, &mut of_engine) {
                Ok(None) => {}
                Ok(Some(name)) => *met.entry(name).or_default() += 1,
                Err(error) => failures.push(format!("{event:?}: {error:#}")),
            }
        }
        ensure!(failures.is_empty(), "RINGWAY_SEED={seed}: {} of {EVENTS} events:\n{}", failures.len(), failures.join("\n"));
        Ok(())
    })
}

/// One event in both; the difference, if there is one that is on purpose.
fn compare(
    event: &Event,
    kernel: &mut Kernel,
    of_kernel: &mut View,
    node: &mut Node,
    of_engine: &mut View,
) -> Result<Option<&'static str>> {
    let frames = kernel.run(event.from(), &event.frames(of_kernel))?;
    let by_kernel = of_kernel.judge(event, frames, Vec::new()).context("the kernel")?;
    let processed = node.run(event.from(), &event.frames(of_engine))?;
    let by_engine = of_engine.judge(event, processed.frames, processed.drops).context("the engine")?;
    if by_kernel.seen == by_engine.seen {
        View::agree([of_kernel, of_engine]);
        return Ok(None);
    }
    match DIFFERENCES.iter().find(|difference| (difference.is)(event, &by_kernel, &by_engine)) {
        Some(difference) => Ok(Some(difference.name)),
        None => bail!("they differ\n{}\n{}", describe("kernel", &by_kernel), describe("engine", &by_engine)),
    }
}

fn describe(who: &str, outcome: &Outcome) -> String {
    let mut text = format!("{who}: invalid {}, drops {:?}", outcome.is_invalid, outcome.drops);
    for seen in &outcome.seen {
        text += &format!("\n  {seen}");
    }
    text
}

#[test]
fn what_the_kernel_delivers_the_engine_delivers() -> Result<()> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>()).transpose();
    let mut met = Met::new();
    if let Some(seed) = number("RINGWAY_SEED")? {
        return run(seed, &mut met);
    }
    (0..number("RINGWAY_SEEDS")?.unwrap_or(SEEDS)).try_for_each(|seed| run(seed, &mut met))?;
    println!("differences on purpose: {met:#?}");
    let unmet: Vec<&str> = DIFFERENCES.iter().map(|difference| difference.name).filter(|name| !met.contains_key(name)).collect();
    ensure!(unmet.is_empty(), "they do not differ (any more): {unmet:?}");
    Ok(())
}
