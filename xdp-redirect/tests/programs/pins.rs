//! What a restart finds.

use ringway_engine::family::V4;
use ringway_engine::flow::{FlowKey, FlowOp, FlowTable, Hook, slots_for};
use ringway_engine::tables::FrontendKey;
use xdp_redirect::{AddressUse, Error, FrontendUse, LoadOptions, MapFate, Programs, Sockets, UplinkUse, cleanup};

use crate::scratch::{FLOWS_MAX, NOW, Scratch, end, one_way, table_of, to, uplink_use};

#[test]
fn a_restart_finds_flows_frontends_and_seed() {
    let used = FrontendUse { here: true, sockets: Sockets::Vip(40_000), draining: true };
    let address = AddressUse { announced: true, closed: true, vip: true, ping: true, snat_ports: Some((10_000, 29_999)) };
    let scratch = Scratch::new();
    let (first, report) = scratch.load();
    assert!(report.maps.iter().all(|(_, fate)| *fate == MapFate::Created), "{report:?}");
    let key = FlowKey::new(end::<V4>("198.51.100.7", 5000), end::<V4>("203.0.113.10", 80), 0, Hook::UplinkIn, 6);
    let flow = one_way(key, to(end::<V4>("198.51.100.7", 5000), end::<V4>("10.1.0.5", 8080), FlowOp::Pass));
    table_of(&first).insert(0, &flow, NOW).expect("room");
    let frontend = FrontendKey { address: [203, 0, 113, 10].into(), port: 80, protocol: 6 };
    first.frontends.upsert(&frontend, used).expect("a frontend");
    first.device_macs.upsert(7, [2, 0, 0, 0, 0, 7]).expect("a device");
    first.addresses.upsert([10, 0, 0, 1].into(), address).expect("an address");
    let seed = first.seed();
    drop(first);

    let (second, report) = scratch.load();
    assert!(report.kept_flows() && report.maps.iter().all(|(_, fate)| *fate == MapFate::Reused), "{report:?}");
    assert_eq!(second.seed(), seed);
    let (table, kept) = FlowTable::over(second.flow_slots(), FLOWS_MAX, 1, second.seed(), NOW);
    assert_eq!(kept, 1);
    let slot = table.lookup(&key, table.hash(&key)).expect("the flow");
    assert_eq!(table.rewrite_of(slot), flow.forward.1);
    assert_eq!(second.frontends.entries().expect("entries"), [(frontend, used)]);
    assert_eq!(second.device_macs.entries().expect("entries"), [(7, [2, 0, 0, 0, 0, 7])]);
    assert_eq!(second.addresses.entries().expect("entries"), [([10, 0, 0, 1].into(), address)]);
}

#[test]
fn a_flow_table_of_another_size_is_replaced_and_nothing_else() {
    let scratch = Scratch::new();
    let seed = scratch.load().0.seed();
    let options = LoadOptions { flow_slots: slots_for(4 * FLOWS_MAX), ..scratch.options() };
    let (programs, report) = Programs::load(options.clone()).expect("programs");
    assert!(!report.kept_flows());
    assert_eq!(programs.flow_slots().len(), options.flow_slots);
    assert_eq!(programs.seed(), seed);
    for (name, fate) in report.maps {
        match fate {
            MapFate::Replaced { why } => assert!(name == "flows4" && why.contains("max_entries"), "{name}: {why}"),
            fate => assert_eq!(fate, MapFate::Reused, "{name}"),
        }
    }
    let (_, report) = Programs::load(options).expect("programs");
    assert!(report.kept_flows(), "the next start knows the new size");
}

#[test]
fn a_lost_seed_makes_all_maps_new() {
    let scratch = Scratch::new();
    drop(scratch.load());
    std::fs::remove_file(scratch.pin_dir.join("map/node_meta")).expect("the pin");
    let (_, report) = scratch.load();
    for (name, fate) in report.maps {
        match (name, fate) {
            ("node_meta", fate) => assert_eq!(fate, MapFate::Created),
            (_, MapFate::Replaced { why }) => assert!(why.contains("seed"), "{name}: {why}"),
            (name, fate) => panic!("{name}: {fate:?}"),
        }
    }
}

#[test]
fn cleanup_removes_everything_and_may_be_repeated() {
    let scratch = Scratch::new();
    drop(scratch.load());
    cleanup(&scratch.pin_dir).expect("cleanup");
    // The kernel may put files of its own there.
    assert!(!scratch.pin_dir.join("map").exists() && !scratch.pin_dir.join("link").exists());
    cleanup(&scratch.pin_dir).expect("cleanup of nothing");
}

#[test]
fn errors_say_what_is_wrong() {
    let scratch = Scratch::new();
    let odd = Programs::load(LoadOptions { flow_slots: 1000, ..scratch.options() }).expect_err("not a power of two");
    assert!(matches!(odd, Error::Argument { value: 1000, .. }), "{odd}");
    let nobody = Programs::load(LoadOptions { workers: 0, ..scratch.options() }).expect_err("no worker");
    assert!(matches!(nobody, Error::Argument { .. }), "{nobody}");
    let plain = tempfile::tempdir().expect("a folder");
    let error = Programs::load(LoadOptions { pin_dir: plain.path().into(), ..scratch.options() }).expect_err("no bpffs");
    assert!(error.to_string().contains("bpffs"), "{error}");
}

#[test]
fn a_full_map_says_so() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    for ifindex in 0..16_384 {
        programs.device_macs.upsert(ifindex, [2; 6]).expect("room");
    }
    let error = programs.device_macs.upsert(16_384, [2; 6]).expect_err("no room");
    assert!(matches!(error, Error::MapFull { max_entries: 16_384, .. }), "{error}");
    programs.device_macs.upsert(16_383, [3; 6]).expect("a change needs no room");
    programs.device_macs.remove(0).expect("removal");
    programs.device_macs.remove(0).expect("removal of nothing");
    programs.device_macs.upsert(16_384, [2; 6]).expect("room again");
}

#[test]
fn uplinks_are_set_together() {
    let scratch = Scratch::new();
    let (programs, _) = scratch.load();
    let uplinks: Vec<UplinkUse> = (1..=65).map(uplink_use).collect();
    programs.uplinks.set(&uplinks[..2]).expect("two");
    let error = programs.uplinks.set(&uplinks).expect_err("one too many");
    assert!(matches!(error, Error::MapFull { max_entries: 64, .. }), "{error}");
    assert_eq!(programs.uplinks.entries().expect("entries"), uplinks[..2]);
    programs.uplinks.set(&uplinks[1..]).expect("as many as there is room for");
    assert_eq!(programs.uplinks.entries().expect("entries"), uplinks[1..]);
    programs.uplinks.set(&uplinks[4..6]).expect("fewer");
    programs.uplinks.set_mac(6, [2; 6]).expect("an uplink");
    programs.uplinks.set_mac(7, [2; 6]).expect("no uplink any more: nothing");
    assert_eq!(programs.uplinks.entries().expect("entries"), [uplinks[4], UplinkUse { mac: [2; 6], ..uplinks[5] }]);
}
