//! Connections that are said to be reset, and may live: their ends are asked before the flows end (`ringway_engine::flow`, `doubt`). First
//! the client; then, if the question was lost or a firewall or an old NAT before the client does not let it pass, the backend.
//! What they answer passes their flows, which needs nobody here.

use std::sync::Arc;
use std::time::Duration;

use ringway_engine::family::Family;
use ringway_engine::flow::{Doubted, FlowTable, FlowTables, Numbers};
use ringway_engine::nudge;

use super::clients::Way;
use crate::health::Board;

const ROUND: Duration = Duration::from_secs(1);
/// Questions of a family in a round: few beside what workers do in a second, however many connections are reset. Others wait their turn;
/// where it does not come their flows end.
const ROUND_MAX: usize = 500;

/// Asks from now on, in a task of its own.
pub fn ask(flows: FlowTables, board: Arc<Board>) {
    tokio::spawn(async move {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        loop {
            tokio::time::sleep(ROUND).await;
            ask_round(&flows.v4, &mut v4, &board).await;
            ask_round(&flows.v6, &mut v6, &board).await;
        }
    });
}

/// Asks the clients that wait, and as far as there is room the backends of those of the last round (`asked`) that did not answer.
async fn ask_round<F: Family>(flows: &FlowTable<F>, asked: &mut Vec<Doubted<F>>, board: &Board) {
    let mut silent = std::mem::take(asked);
    let waiting = std::iter::from_fn(|| flows.next_doubted()).filter(|doubted| flows.is_unanswered(doubted));
    asked.extend(waiting.take(ROUND_MAX));
    silent.retain(|doubted| flows.is_unanswered(doubted));
    silent.truncate(ROUND_MAX - asked.len());
    if asked.is_empty() && silent.is_empty() {
        return;
    }
    let Some(dataplane) = board.observed().dataplane else { return };
    let way = Way::by(dataplane);
    for Doubted { key, numbers, .. } in &*asked {
        way.send_to_client(nudge::ack(&key.tuple(), *numbers), key).await;
    }
    for doubted in silent {
        let Doubted { slot, numbers, .. } = doubted;
        let tuple = flows.rewrite_of(slot).tuple;
        // Those before took their time.
        if !flows.is_unanswered(&doubted) {
            continue;
        }
        let numbers = Numbers { sequence: numbers.acknowledged, acknowledged: numbers.sequence };
        way.send_to_backend(nudge::ack(&tuple.reversed(), numbers), &tuple).await;
    }
}
