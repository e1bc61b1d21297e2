//! Values that depend on the size of the pod: `{"pod4": 1, "pod16": 4, "default": 1}` in place of a value.

use serde_json::{Map, Value};

use super::fields::field_named;

/// Pods that a map may name.
const PODS: [&str; 7] = [
    "pod4", "pod8", "pod16", "pod32", "pod64", "pod128", "pod256",
];

/// Whether there is a pod of that name.
pub(super) fn is_pod(name: &str) -> bool {
    PODS.contains(&name)
}

/// The names of all pods.
pub(super) fn names() -> String {
    PODS.join(", ")
}

fn as_pod_map(value: &Value) -> Option<&Map<String, Value>> {
    let map = value.as_object()?;
    let names = |key: &String| key == "default" || is_pod(key);
    (!map.is_empty() && map.keys().all(names)).then_some(map)
}

/// Puts in place of every pod map its value for `pod`, or else for `default`. Fields that nobody knows stay as they are.
pub(super) fn specialise(map: &mut Map<String, Value>, pod: Option<&str>) -> Result<(), String> {
    for (name, value) in map.iter_mut() {
        let Some(by_pod) = as_pod_map(value).filter(|_| field_named(name).is_some()) else {
            continue;
        };
        let chosen = pod
            .and_then(|pod| by_pod.get(pod))
            .or(by_pod.get("default"));
        let Some(chosen) = chosen else {
            let known: Vec<&str> = by_pod.keys().map(String::as_str).collect();
            let known = known.join(", ");
            return Err(match pod {
                Some(pod) => format!("`{name}` has no value for {pod}, only for {known}"),
                None => format!("`{name}` depends on the pod ({known}): give --pod_type"),
            });
        };
        *value = chosen.clone();
    }
    Ok(())
}
