use ringway_model::convert::convert;
use ringway_model::manifest::parse;

use super::*;

const KINDS: [Kind; 2] = [Kind::Service, Kind::EndpointSlice];

fn take(objects: &Objects, yaml: &str) -> Outcome {
    let parsed = parse(yaml);
    let (_, object) = parsed.objects.first().unwrap();
    let converted = convert(object);
    let object = match &converted {
        Ok(Converted::Ours(model, _)) => model.object_ref(),
        Ok(Converted::NotOurs(object, _)) => object.clone(),
        Err(refused) => refused.object.clone().unwrap(),
    };
    objects.apply(&object, None, converted)
}

fn slice(name: &str, service: &str, addresses: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{{name: https, port: 6443}}], \
         metadata: {{name: {name}, namespace: default, labels: {{kubernetes.io/service-name: {service}}}}}, \
         endpoints: [{addresses}]}}"
    )
}

const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: kubernetes, namespace: default}, \
                       spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443}]}}";

#[test]
fn where_apiservers_are_is_learnt_and_survives_an_empty_slice() {
    let objects = Objects::new(&KINDS, Vec::new());
    take(&objects, SERVICE);
    take(&objects, &slice("kubernetes", "kubernetes", "{addresses: [192.0.2.1]}"));
    let learnt = Learnt { endpoints: vec!["192.0.2.1:6443".parse().unwrap()], services: vec!["10.96.0.1:443".parse().unwrap()] };
    assert_eq!(*objects.learnt.borrow(), learnt);
    assert_eq!(objects.take().len(), 2);
    take(&objects, &slice("kubernetes", "kubernetes", ""));
    assert!(objects.take().is_empty(), "held");
    assert!(objects.lock().holds_kubernetes());
    assert_eq!(*objects.learnt.borrow(), learnt);
}

#[test]
fn what_is_kept_on_disk_is_what_the_tables_have() {
    let objects = Objects::new(&KINDS, Vec::new());
    take(&objects, &slice("kubernetes", "kubernetes", "{addresses: [192.0.2.1]}"));
    take(&objects, &slice("kubernetes", "kubernetes", ""));
    assert!(objects.take_unsaved().is_none(), "not listed to the end yet");
    objects.end_list(Kind::EndpointSlice);
    // The list that ended named nothing since it never began: nothing is deleted.
    let saved = objects.take_unsaved().unwrap();
    assert!(matches!(&saved[..], [Model::EndpointSlice(slice)] if slice.endpoints.len() == 1), "{saved:?}");
    assert!(objects.take_unsaved().is_none(), "nothing new");
    objects.put_back_unsaved();
    assert!(objects.take_unsaved().is_some());

    let again = Objects::new(&KINDS, saved);
    assert_eq!(again.take().len(), 1);
    assert_eq!(again.learnt.borrow().endpoints.len(), 1, "an apiserver is known before any has answered");
    assert_eq!(again.lock().kinds[&Kind::Service].freshness, Freshness::Stale);
    again.begin_list(Kind::EndpointSlice);
    take(&again, &slice("kubernetes", "kubernetes", ""));
    again.end_list(Kind::EndpointSlice);
    assert!(again.take().is_empty(), "still held after a restart");
    assert!(again.take_unsaved().is_some());
}

#[test]
fn a_refused_object_says_why() {
    let objects = Objects::new(&KINDS, Vec::new());
    let Outcome::Refused(sentences) = take(&objects, &slice("a", "web", "{addresses: [127.0.0.1]}")) else { panic!("refused") };
    assert!(sentences[0].starts_with("endpoints[0].addresses[0]: "), "{sentences:?}");
    assert_eq!(objects.lock().refused_total, 1);
}

#[test]
fn a_trouble_ends_with_the_next_object() {
    let objects = Objects::new(&KINDS, Vec::new());
    objects.trouble(Kind::Service, "forbidden".into());
    let since = objects.lock().kinds[&Kind::Service].trouble.clone().unwrap().1;
    objects.trouble(Kind::Service, "forbidden".into());
    assert_eq!(objects.lock().kinds[&Kind::Service].trouble.clone().unwrap().1, since, "the same trouble");
    take(&objects, SERVICE);
    assert!(objects.lock().kinds[&Kind::Service].trouble.is_none());
}
