use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use ringway_model::{EndpointSliceModel, IpFamily, Kind, NodeModel, ServiceName};

use super::*;

fn object(name: &str) -> ObjectRef {
    ObjectRef { kind: Kind::Node, namespace: "".into(), name: name.into() }
}

fn model(name: &str, zone: &str) -> Model {
    Model::Node(Arc::new(NodeModel {
        name: name.into(),
        internal_ips: Vec::new(),
        zone: Some(zone.into()),
        pod_cidrs: Vec::new(),
        deleting: false,
        to_be_deleted: false,
        unreachable: false,
    }))
}

fn ours(name: &str, zone: &str) -> Result<Converted, Refused> {
    Ok(Converted::Ours(model(name, zone), Vec::new()))
}

fn refused(name: &str) -> Result<Converted, Refused> {
    let problem = Problem {
        severity: Severity::Error,
        file: None,
        document: None,
        line: None,
        kind: None,
        namespace: None,
        name: Some(name.into()),
        field: None,
        message: "broken".into(),
    };
    Err(Refused { object: Some(object(name)), problems: vec![problem] })
}

#[test]
fn all_versions_of_an_object_have_one_name() {
    let object = || ObjectRef { kind: Kind::EndpointSlice, namespace: "default".into(), name: "web-1".into() };
    let mut reflection = Reflection::default();
    let mut version = |service: &str| {
        let slice = EndpointSliceModel {
            name: "web-1".into(),
            service: ServiceName { namespace: "default".into(), name: service.into() },
            family: IpFamily::V4,
            ports: Vec::new(),
            endpoints: [].into(),
            last_change_trigger: None,
        };
        let converted = Ok(Converted::Ours(Model::EndpointSlice(Arc::new(slice)), Vec::new()));
        let change = reflection.apply(object(), None, converted);
        let Some(Change::Upsert(model)) = change else { panic!("{change:?}") };
        model.object_ref()
    };
    let (one, two) = (version("one"), version("two"));
    assert!(Arc::ptr_eq(&one.name, &two.name) && Arc::ptr_eq(&one.namespace, &two.namespace));
    let key = reflection.objects.keys().next().unwrap();
    assert!(Arc::ptr_eq(&one.name, &key.name) && Arc::ptr_eq(&one.namespace, &key.namespace), "the key, too");
}

#[test]
fn what_a_list_does_not_name_is_gone() {
    let mut reflection = Reflection::default();
    reflection.preload(model("a", "z"));
    reflection.preload(model("b", "z"));
    reflection.begin_list();
    assert_eq!(reflection.apply(object("a"), None, ours("a", "z")), None, "nothing new");
    // A list that breaks off and begins again.
    reflection.begin_list();
    assert_eq!(reflection.apply(object("c"), None, ours("c", "z")), Some(Change::Upsert(model("c", "z"))));
    let mut gone = reflection.end_list();
    gone.sort_by_key(|change| format!("{change:?}"));
    assert_eq!(gone, [Change::Delete(object("a")), Change::Delete(object("b"))]);
    assert!(reflection.end_list().is_empty(), "no list is under way");
    assert_eq!(reflection.objects(), 1);
}

#[test]
fn a_broken_version_keeps_the_last_good_one_also_through_lists() {
    let mut reflection = Reflection::default();
    reflection.apply(object("a"), None, ours("a", "one"));
    assert_eq!(reflection.apply(object("a"), None, refused("a")), None);
    assert_eq!((reflection.refused_len(), reflection.problems().count()), (1, 1));
    reflection.begin_list();
    reflection.apply(object("a"), None, refused("a"));
    reflection.apply(object("never-good"), None, refused("never-good"));
    assert!(reflection.end_list().is_empty());
    assert_eq!((reflection.objects(), reflection.refused_len()), (1, 2));
    assert_eq!(reflection.delete(&object("never-good"), None), None);
    assert_eq!(reflection.apply(object("a"), None, ours("a", "two")), Some(Change::Upsert(model("a", "two"))));
    assert_eq!(reflection.refused_len(), 0);
    reflection.apply(object("a"), None, refused("a"));
    assert_eq!(reflection.delete(&object("a"), None), Some(Change::Delete(object("a"))));
    assert_eq!(reflection.problems().count(), 0);
}

#[test]
fn what_is_not_ours_goes_out_of_force() {
    let mut reflection = Reflection::default();
    reflection.apply(object("a"), None, ours("a", "one"));
    let not_ours = Ok(Converted::NotOurs(object("a"), Vec::new()));
    assert_eq!(reflection.apply(object("a"), None, not_ours), Some(Change::Delete(object("a"))));
    assert!(reflection.objects() == 0);
}

/// Random histories with lists that break off: after a whole list, what was handed out is what the server has.
#[test]
fn any_history_ends_equal_to_the_server() {
    let random = RandomState::new();
    let mut seed = random.hash_one(1);
    let mut next = |below: u64| {
        seed = random.hash_one(seed);
        seed % below
    };
    for _ in 0..300 {
        let mut server: BTreeMap<String, String> = BTreeMap::new();
        let mut tables: BTreeMap<Arc<str>, Model> = BTreeMap::new();
        let mut reflection = Reflection::default();
        let mut take = |changes: Vec<Change>| {
            for change in changes {
                match change {
                    Change::Upsert(model) => tables.insert(model.object_ref().name, model),
                    Change::Delete(object) => tables.remove(&object.name),
                };
            }
        };
        for step in 0..60 {
            let (name, zone) = (format!("n{}", next(5)), format!("z{step}"));
            let heard = next(3) > 0;
            if next(2) == 0 {
                server.insert(name.clone(), zone.clone());
                if heard {
                    take(reflection.apply(object(&name), None, ours(&name, &zone)).into_iter().collect());
                }
            } else {
                server.remove(&name);
                if heard {
                    take(reflection.delete(&object(&name), None).into_iter().collect());
                }
            }
            if next(8) == 0 {
                reflection.begin_list();
                let whole = next(2) == 0;
                for (name, zone) in server.iter().take(if whole { usize::MAX } else { 2 }) {
                    take(reflection.apply(object(name), None, ours(name, zone)).into_iter().collect());
                }
                if whole {
                    take(reflection.end_list());
                }
            }
        }
        reflection.begin_list();
        for (name, zone) in &server {
            take(reflection.apply(object(name), None, ours(name, zone)).into_iter().collect());
        }
        take(reflection.end_list());
        let expected: BTreeMap<Arc<str>, Model> = server.iter().map(|(name, zone)| (name.as_str().into(), model(name, zone))).collect();
        assert_eq!(tables, expected);
        assert_eq!(reflection.objects(), expected.len());
    }
}

#[test]
fn what_comes_late_or_again_changes_nothing() {
    let mut reflection = Reflection::default();
    let upsert = |zone: &str| Some(Change::Upsert(model("a", zone)));
    assert_eq!(reflection.apply(object("a"), Some(5), ours("a", "five")), upsert("five"));
    assert_eq!(reflection.apply(object("a"), Some(4), ours("a", "four")), None, "late");
    assert_eq!(reflection.apply(object("a"), Some(5), ours("a", "five")), None, "again");
    assert_eq!(reflection.delete(&object("a"), Some(3)), None, "of the one before it");
    assert_eq!(reflection.delete(&object("a"), Some(7)), Some(Change::Delete(object("a"))));
    assert_eq!(reflection.apply(object("a"), Some(6), ours("a", "six")), None, "it went after that");
    assert_eq!(reflection.apply(object("a"), Some(8), ours("a", "eight")), upsert("eight"), "made anew");
    assert_eq!(reflection.delete(&object("a"), Some(7)), None, "again");
    reflection.begin_list();
    assert_eq!(reflection.apply(object("a"), Some(2), ours("a", "two")), upsert("two"), "a list counts, whatever its versions");
    assert!(reflection.end_list().is_empty());
    assert_eq!(reflection.apply(object("a"), Some(3), ours("a", "three")), upsert("three"));
}
