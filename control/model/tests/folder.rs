//! Random folders, changed file by file: what the changes add up to must be what the rules of the folder say.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use ringway_model::manifest::ManifestFile;
use ringway_model::{Change, Folder, Model};

/// One document of a file.
#[derive(Clone, Copy, Debug)]
enum Document {
    /// Service `0`, with the version in its address.
    Good(u8, u8),
    /// Named, but wrong.
    Refused(u8),
    Headless(u8),
    /// No YAML: may be anything.
    Unreadable,
}

const FILES: [&str; 3] = ["a.yaml", "b.yaml", "c.yaml"];

fn document() -> impl Strategy<Value = Document> {
    prop_oneof![
        8 => (0u8..4, 0u8..3).prop_map(|(service, version)| Document::Good(service, version)),
        2 => (0u8..4).prop_map(Document::Refused),
        1 => (0u8..4).prop_map(Document::Headless),
        1 => Just(Document::Unreadable),
    ]
}

fn text(documents: &[Document]) -> String {
    let service = |service: u8, ip: &str| {
        format!("{{apiVersion: v1, kind: Service, metadata: {{name: s{service}}}, spec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}}}")
    };
    let texts = documents.iter().map(|document| match *document {
        Document::Good(name, version) => service(name, &format!("10.96.{name}.{version}")),
        Document::Refused(name) => service(name, "10.96.0.256"),
        Document::Headless(name) => service(name, "None"),
        Document::Unreadable => "{".into(),
    });
    texts.map(|text| format!("---\n{text}\n")).collect()
}

/// What each file has: the last good version of each service, `None` for headless.
type Said = BTreeMap<u8, Option<u8>>;

/// What a file says from now on.
fn say(before: &Said, documents: &[Document]) -> Said {
    let mut said = Said::new();
    for document in documents {
        match *document {
            Document::Good(name, version) => _ = said.entry(name).or_insert(Some(version)),
            Document::Headless(name) => _ = said.entry(name).or_insert(None),
            Document::Refused(_) | Document::Unreadable => {}
        }
    }
    let unreadable = documents.iter().any(|document| matches!(document, Document::Unreadable));
    let refused = |name| documents.iter().any(|document| matches!(document, Document::Refused(refused) if *refused == name));
    for (name, version) in before.iter().filter(|(name, _)| unreadable || refused(**name)) {
        said.entry(*name).or_insert(*version);
    }
    said
}

/// A file gets other documents, or goes.
fn step() -> impl Strategy<Value = (usize, Option<Vec<Document>>)> {
    (0..FILES.len(), prop::option::weighted(0.85, vec(document(), 0..5)))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changes_add_up_to_what_the_files_say(steps in vec(step(), 1..12)) {
        let mut folder = Folder::default();
        let mut files: [Option<Said>; 3] = [None, None, None];
        let mut in_force: BTreeMap<String, String> = BTreeMap::new();
        for (file, documents) in steps {
            let changes = match &documents {
                Some(documents) => folder.update(ManifestFile { file: FILES[file].into(), text: text(documents) }),
                None => folder.remove(FILES[file]),
            };
            for change in changes {
                match change {
                    Change::Upsert(Model::Service(service)) => {
                        let ip = service.cluster_ips[0].to_string();
                        assert_ne!(in_force.insert(service.name.name.to_string(), ip.clone()), Some(ip), "a change that changes nothing");
                    }
                    Change::Delete(object) => assert!(in_force.remove(&*object.name).is_some(), "{object:?} was not in force"),
                    other @ Change::Upsert(_) => panic!("{other:?}"),
                }
            }
            files[file] = documents.map(|documents| say(&files[file].take().unwrap_or_default(), &documents));
            let mut expected = BTreeMap::new();
            for name in 0..4u8 {
                if let Some(Some(version)) = files.iter().flatten().find_map(|said| said.get(&name)) {
                    expected.insert(format!("s{name}"), format!("10.96.{name}.{version}"));
                }
            }
            assert_eq!(in_force, expected);
        }
    }
}
