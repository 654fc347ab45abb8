//! Attaching to devices in a network namespace of the test's own, and what a restart does with the links.

use xdp_redirect::probe::{TcDirection, has_tcx, tcx_attached, xdp_attached, xdp_features};
use xdp_redirect::{Attachment, Error, ProgramName, Programs, XdpMode, cleanup, pinned_links, prune};

use crate::namespace::{in_namespace, ip};
use crate::scratch::Scratch;

const DEVICE: u32 = 70;

/// A veth pair whose near end is device 70.
fn add_veth() {
    ip("link add name near index 70 numrxqueues 2 numtxqueues 2 type veth peer name far numrxqueues 2 numtxqueues 2");
    ip("link set near up");
    ip("link set far up");
}

fn xdp_mode() -> Option<XdpMode> {
    xdp_attached(DEVICE).expect("a query").and_then(|attached| attached.mode)
}

fn tcx_names(direction: TcDirection) -> Vec<String> {
    tcx_attached(DEVICE, direction).expect("a query").into_iter().map(|(_, name)| name).collect()
}

fn attach_all(programs: &Programs) -> [Attachment; 2] {
    [programs.attach_uplink(DEVICE, XdpMode::Native).expect("uplink"), programs.attach_edge_uplink(DEVICE).expect("edge at the uplink")]
}

#[test]
fn programs_outlive_the_process_and_are_taken_over() {
    in_namespace(|| {
        add_veth();
        let scratch = Scratch::new();
        let (first, _) = scratch.load();
        assert_eq!(attach_all(&first), [Attachment::Attached, Attachment::Attached]);
        drop(first);
        assert_eq!(xdp_mode(), Some(XdpMode::Native), "still attached");
        assert_eq!(tcx_names(TcDirection::Ingress), ["edge_uplink_in"]);
        assert_eq!(tcx_names(TcDirection::Egress), ["edge_uplink_out"]);
        let before = xdp_attached(DEVICE).expect("a query").expect("a program").prog_id;

        let (second, _) = scratch.load();
        assert_eq!(attach_all(&second), [Attachment::TakenOver, Attachment::TakenOver]);
        assert_ne!(xdp_attached(DEVICE).expect("a query").expect("a program").prog_id, before, "the new program runs");
        assert_eq!(tcx_names(TcDirection::Ingress), ["edge_uplink_in"], "once");
        assert_eq!(attach_all(&second), [Attachment::TakenOver, Attachment::TakenOver], "the same again");
        drop(second);

        cleanup(&scratch.pin_dir).expect("cleanup");
        assert_eq!(xdp_mode(), None);
        assert!(tcx_names(TcDirection::Ingress).is_empty() && tcx_names(TcDirection::Egress).is_empty());
    });
}

#[test]
fn native_xdp_takes_devices_with_large_packets() {
    in_namespace(|| {
        add_veth();
        ip("link set near mtu 9000");
        ip("link set far mtu 9000");
        let scratch = Scratch::new();
        let (programs, _) = scratch.load();
        attach_all(&programs);
        assert_eq!(xdp_mode(), Some(XdpMode::Native));
        // And as large as they can be.
        ip("link set far mtu 65535");
    });
}

#[test]
fn another_mode_and_a_device_made_anew_get_a_new_link() {
    in_namespace(|| {
        add_veth();
        let scratch = Scratch::new();
        let (programs, _) = scratch.load();
        attach_all(&programs);
        let generic = programs.attach_uplink(DEVICE, XdpMode::Generic).expect("generic");
        assert!(matches!(&generic, Attachment::Replaced { why } if why.contains("native")), "{generic:?}");
        assert_eq!(xdp_mode(), Some(XdpMode::Generic));

        ip("link del near");
        let links = pinned_links(&scratch.pin_dir).expect("links");
        assert_eq!(links.len(), 3);
        assert!(links.iter().all(|link| link.ifindex == DEVICE && !link.live), "{links:?}");
        add_veth();
        for attachment in attach_all(&programs) {
            assert!(matches!(&attachment, Attachment::Replaced { why } if why.contains("gone")), "{attachment:?}");
        }
        assert_eq!(xdp_mode(), Some(XdpMode::Native));
        assert!(pinned_links(&scratch.pin_dir).expect("links").iter().all(|link| link.live));
    });
}

#[test]
fn a_pod_comes_and_goes() {
    in_namespace(|| {
        add_veth();
        let scratch = Scratch::new();
        let (programs, _) = scratch.load();
        assert_eq!(programs.attach_edge_pod(DEVICE).expect("attach"), Attachment::Attached);
        let programs_of = |links: Vec<xdp_redirect::PinnedLink>| links.into_iter().map(|link| link.program).collect::<Vec<_>>();
        let links = pinned_links(&scratch.pin_dir).expect("links");
        assert_eq!(programs_of(links), [ProgramName::EdgePodIn, ProgramName::EdgePodOut]);
        programs.detach_pod(DEVICE).expect("detach");
        assert!(tcx_names(TcDirection::Ingress).is_empty() && tcx_names(TcDirection::Egress).is_empty());
        programs.detach_pod(DEVICE).expect("detach of nothing");

        programs.attach_edge_pod(DEVICE).expect("attach");
        ip("link del near");
        programs.detach_pod(DEVICE).expect("detach from a device that is gone");
        assert!(pinned_links(&scratch.pin_dir).expect("links").is_empty());

        add_veth();
        programs.attach_edge_pod(DEVICE).expect("attach");
        assert!(prune(&scratch.pin_dir).expect("prune").is_empty(), "all live");
        ip("link del near");
        assert_eq!(prune(&scratch.pin_dir).expect("prune").len(), 2);
        assert!(pinned_links(&scratch.pin_dir).expect("links").is_empty());
        let gone = programs.attach_edge_pod(DEVICE).expect_err("no such device");
        assert!(matches!(gone, Error::Attach { ifindex: DEVICE, .. }), "{gone}");
    });
}

#[test]
fn somebody_elses_xdp_program_is_an_error_that_names_it() {
    in_namespace(|| {
        add_veth();
        let (theirs, ours) = (Scratch::new(), Scratch::new());
        let (their_programs, _) = theirs.load();
        their_programs.attach_hostlink(DEVICE).expect("attach");
        let id = xdp_attached(DEVICE).expect("a query").expect("a program").prog_id;
        let (programs, _) = ours.load();
        for mode in [XdpMode::Native, XdpMode::Generic] {
            let error = programs.attach_uplink(DEVICE, mode).expect_err("a conflict");
            let Error::Conflict { prog_id, prog_name, .. } = &error else { panic!("{error}") };
            assert_eq!((*prog_id, prog_name.as_str()), (id, "hostlink"));
        }
        assert_eq!(xdp_attached(DEVICE).expect("a query").expect("a program").prog_id, id, "theirs is untouched");
    });
}

#[test]
fn ours_runs_first_on_the_way_in_and_last_on_the_way_out() {
    in_namespace(|| {
        add_veth();
        let (theirs, ours) = (Scratch::new(), Scratch::new());
        let (their_programs, _) = theirs.load();
        their_programs.attach_deliver(DEVICE).expect("attach");
        their_programs.attach_edge_node(DEVICE).expect("attach");
        let (programs, _) = ours.load();
        programs.attach_edge_pod(DEVICE).expect("attach");
        assert_eq!(tcx_names(TcDirection::Ingress), ["edge_pod_in", "deliver"]);
        assert_eq!(tcx_names(TcDirection::Egress), ["edge_node_out", "edge_pod_out"]);
    });
}

#[test]
fn what_the_kernel_and_a_veth_can_do_is_known() {
    in_namespace(|| {
        assert!(has_tcx().expect("a query"));
        add_veth();
        let scratch = Scratch::new();
        scratch.load().0.attach_uplink(DEVICE, XdpMode::Native).expect("attach");
        let features = xdp_features(DEVICE).expect("a query");
        assert!(features.native && features.fragments && !features.zero_copy, "{features:?}");
        let error = xdp_attached(12345).expect_err("no such device");
        assert!(matches!(error, Error::Query { ifindex: 12345, .. }), "{error}");
    });
}
