//! The objects and the log of their changes. Pure: time and randomness come in as values.

use super::events::{to_served, to_stored};
use super::kinds::{Kind, Resource};
use super::lifetime::{mark, pod_grace, raise_generation, seconds};
use super::patch::{self, PatchError, PatchType};
use super::selector::Selector;
use super::status::{ApiError, FieldError};
use super::types::{Change, ChangeType, DeleteOptions, Deleted, Fresh, Part, Propagation, Target};
use super::validation;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

#[derive(Debug, Default)]
struct Log {
    changes: VecDeque<Arc<Change>>,
    /// Version of the newest change that the log no longer holds.
    forgotten: u64,
}

type Key = (Kind, String, String);

/// All objects, and for each kind a bounded log of changes.
#[derive(Debug)]
pub struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    logs: BTreeMap<Kind, Log>,
    version: u64,
    log_limit: usize,
    event_limit: usize,
    unpublished: Vec<Arc<Change>>,
}

impl Store {
    /// An empty store that keeps `log_limit` changes of each kind and `event_limit` Events.
    #[must_use]
    pub fn new(log_limit: usize, event_limit: usize) -> Self {
        Self {
            objects: BTreeMap::new(),
            logs: BTreeMap::new(),
            version: 1,
            log_limit: log_limit.max(1),
            event_limit: event_limit.max(1),
            unpublished: Vec::new(),
        }
    }

    /// The newest resourceVersion given out.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// An object in stored form.
    #[must_use]
    pub fn find(&self, kind: Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.objects
            .get(&(kind, namespace.to_owned(), name.to_owned()))
            .map(Arc::clone)
    }

    /// An object in stored form, or the 404.
    pub fn get(&self, target: &Target<'_>) -> Result<Arc<Value>, ApiError> {
        self.find(target.resource.kind, target.namespace, target.name)
            .ok_or_else(|| ApiError::not_found(target.resource, target.name))
    }

    /// The selected objects in stored form; no namespace: of all.
    #[must_use]
    pub fn list(&self, kind: Kind, namespace: Option<&str>, selector: &Selector) -> Vec<Arc<Value>> {
        self.objects
            .iter()
            .filter(|((k, ns, _), object)| {
                *k == kind && namespace.is_none_or(|n| n == ns) && selector.matches(object)
            })
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// Changes of a kind after a version, oldest first; 410 when the log does not reach back that far.
    pub fn changes_after(&self, kind: Kind, version: u64) -> Result<Vec<Arc<Change>>, ApiError> {
        let Some(log) = self.logs.get(&kind) else {
            return Ok(Vec::new());
        };
        if version < log.forgotten {
            return Err(ApiError::expired(version, log.forgotten));
        }
        Ok(log
            .changes
            .iter()
            .filter(|c| c.version > version)
            .map(Arc::clone)
            .collect())
    }

    /// Forgets all changes (not the objects), as a restart of the real server does with its watch cache.
    pub fn forget_changes(&mut self) {
        for kind in Kind::ALL {
            let log = self.logs.entry(kind).or_default();
            log.changes.clear();
            log.forgotten = self.version;
        }
    }

    /// Changes that nobody has taken yet, oldest first.
    pub fn take_unpublished(&mut self) -> Vec<Arc<Change>> {
        std::mem::take(&mut self.unpublished)
    }

    /// Creates an object from a body in served form. Returns it in stored form.
    pub fn create(
        &mut self,
        target: &Target<'_>,
        body: Value,
        fresh: &Fresh,
    ) -> Result<Arc<Value>, ApiError> {
        let resource = target.resource;
        let body = with_type(resource, body)?;
        let mut object = validation::decode(resource, body).map_err(|e| cannot_be_handled(resource, &e))?;
        let metadata = &mut object["metadata"];
        if metadata["resourceVersion"]
            .as_str()
            .is_some_and(|v| !v.is_empty() && v != "0")
        {
            return Err(ApiError::unexplained(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        if metadata["name"].as_str().is_none_or(str::is_empty) {
            let Some(prefix) = metadata["generateName"].as_str().filter(|p| !p.is_empty()) else {
                let error = FieldError::required("metadata.name", "name or generateName is required");
                return Err(ApiError::invalid(resource, "", &[error]));
            };
            metadata["name"] = format!("{prefix}{}", fresh.suffix).into();
        }
        check_namespace(metadata, target.namespace)?;
        metadata["namespace"] = target.namespace.into();
        metadata["uid"] = fresh.uid.clone().into();
        metadata["creationTimestamp"] = seconds(fresh.now).into();
        for field in ["generation", "deletionTimestamp", "deletionGracePeriodSeconds"] {
            metadata.as_object_mut().map(|m| m.remove(field));
        }
        let name = metadata["name"].as_str().unwrap_or_default().to_owned();
        let kind = resource.kind;
        if kind.has_generation() {
            metadata["generation"] = 1.into();
        }
        if kind.has_status() && target.part != Part::Everything {
            object.as_object_mut().map(|o| o.remove("status"));
        }
        let mut object = to_stored(resource, object);
        validation::set_defaults(kind, &mut object);
        let errors = validation::check(kind, resource, &object);
        if !errors.is_empty() {
            return Err(ApiError::invalid(resource, &name, &errors));
        }
        let key = (kind, target.namespace.to_owned(), name);
        if self.objects.contains_key(&key) {
            return Err(ApiError::already_exists(resource, &key.2));
        }
        if target.dry_run {
            return Ok(Arc::new(object));
        }
        let stored = self.commit(key, ChangeType::Added, None, object, None);
        if kind == Kind::Event {
            self.drop_old_events();
        }
        Ok(stored)
    }

    /// Replaces an object (PUT) by a body in served form. The flag says whether it was created.
    pub fn replace(
        &mut self,
        target: &Target<'_>,
        body: Value,
        fresh: &Fresh,
    ) -> Result<(Arc<Value>, bool), ApiError> {
        let resource = target.resource;
        let body = with_type(resource, body)?;
        let object = validation::decode(resource, body).map_err(|e| cannot_be_handled(resource, &e))?;
        check_name(&object["metadata"], target)?;
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let Ok(old) = self.get(target) else {
            if resource.kind.put_creates() && target.part != Part::Status && matches!(version, "" | "0") {
                return self.create(target, object, fresh).map(|created| (created, true));
            }
            return Err(ApiError::not_found(resource, target.name));
        };
        let own = old["metadata"]["uid"].as_str().unwrap_or_default();
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        if !uid.is_empty() && uid != own {
            let cause = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
            return Err(ApiError::conflict_because(resource, target.name, &cause));
        }
        self.update(target, &old, object).map(|changed| (changed, false))
    }

    /// Patches an object. `metadata.resourceVersion` in the patch makes it a compare-and-swap.
    pub fn patch(
        &mut self,
        target: &Target<'_>,
        how: PatchType,
        body: &Value,
    ) -> Result<Arc<Value>, ApiError> {
        let resource = target.resource;
        let old = self.get(target)?;
        if how != PatchType::Json && !body.is_object() {
            return Err(ApiError::bad_request(
                "error decoding patch: the patch must be a JSON object",
            ));
        }
        let mut object = to_served(resource, old.as_ref().clone());
        patch::apply(resource.kind, how, &mut object, body).map_err(|error| match error {
            PatchError::Malformed(text) => ApiError::bad_request(text),
            PatchError::NoMergeKey(text) => ApiError::unexplained(text),
            PatchError::DoesNotFit => ApiError::unprocessable(),
        })?;
        let object = validation::decode(resource, object).map_err(|e| {
            let error = FieldError::invalid("patch", body, e);
            ApiError::invalid(resource, target.name, &[error])
        })?;
        check_name(&object["metadata"], target)?;
        self.update(target, &old, object)
    }

    fn update(&mut self, target: &Target<'_>, old: &Arc<Value>, new: Value) -> Result<Arc<Value>, ApiError> {
        let (resource, kind) = (target.resource, target.resource.kind);
        let mut new = to_stored(resource, new);
        let asked = new["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        if matches!(asked, "" | "0") {
            if !kind.put_without_version() {
                return Err(ApiError::version_needed(resource, target.name));
            }
        } else if asked.parse::<u64>().is_err() {
            return Err(ApiError::unexplained(format!(
                "strconv.ParseUint: parsing \"{asked}\": invalid syntax"
            )));
        } else if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
            return Err(ApiError::conflict(resource, target.name));
        }
        let uid = new["metadata"]["uid"].clone();
        if uid.as_str().is_some_and(|u| !u.is_empty()) && uid != old["metadata"]["uid"] {
            let error = FieldError::invalid("metadata.uid", &uid, "field is immutable");
            return Err(ApiError::invalid(resource, target.name, &[error]));
        }
        new["metadata"]["namespace"] = target.namespace.into();
        for field in [
            "uid",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
        ] {
            copy_field(&old["metadata"], &mut new["metadata"], field);
        }
        match target.part {
            Part::Object if kind.has_status() => copy_field(old, &mut new, "status"),
            Part::Status => copy_field(old, &mut new, "spec"),
            Part::Object | Part::Everything => {}
        }
        validation::set_defaults(kind, &mut new);
        let mut errors = validation::check(kind, resource, &new);
        errors.extend(validation::check_change(resource, old, &new));
        if !errors.is_empty() {
            return Err(ApiError::invalid(resource, target.name, &errors));
        }
        if kind.has_generation() && new["spec"] != old["spec"] {
            raise_generation(&mut new);
        }
        // A write that changes nothing leaves no trace, as in Kubernetes.
        if new == **old || target.dry_run {
            return Ok(Arc::new(new));
        }
        let key = (kind, target.namespace.to_owned(), target.name.to_owned());
        Ok(self.commit(key, ChangeType::Modified, Some(Arc::clone(old)), new, None))
    }

    /// Deletes an object; a pod that is on a node is only marked unless its grace is 0.
    pub fn delete(
        &mut self,
        target: &Target<'_>,
        options: &DeleteOptions,
        fresh: &Fresh,
    ) -> Result<Deleted, ApiError> {
        let old = self.get(target)?;
        for (field, wanted, word, end) in [
            ("uid", &options.uid, "UID", "deleted and then recreated"),
            (
                "resourceVersion",
                &options.resource_version,
                "ResourceVersion",
                "modified",
            ),
        ] {
            let own = old["metadata"][field].as_str().unwrap_or_default();
            if let Some(wanted) = wanted.as_deref().filter(|w| *w != own) {
                let cause = format!(
                    "the {word} in the precondition ({wanted}) does not match the {word} in record ({own}). The object \
                     might have been {end}"
                );
                return Err(ApiError::other_object(target.resource, target.name, &cause));
            }
        }
        let key = (
            target.resource.kind,
            target.namespace.to_owned(),
            target.name.to_owned(),
        );
        let grace = pod_grace(target.resource.kind, &old, options);
        if grace > 0 {
            let running = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
            if running.is_some_and(|r| r <= grace) || target.dry_run {
                return Ok(Deleted::Terminating(old));
            }
            let mut new = old.as_ref().clone();
            mark(&mut new, fresh.now, grace);
            let marked = self.commit(key, ChangeType::Modified, Some(old), new, None);
            return Ok(Deleted::Terminating(marked));
        }
        if target.dry_run {
            return Ok(Deleted::Gone(old));
        }
        let mut last = old.as_ref().clone();
        if key.0 == Kind::Pod {
            // The last that is seen of a pod is that it was to go at once.
            mark(&mut last, fresh.now, 0);
        }
        let gone = self.commit(
            key,
            ChangeType::Deleted,
            Some(old),
            last,
            Some(options.propagation),
        );
        Ok(Deleted::Gone(gone))
    }

    fn commit(
        &mut self,
        key: Key,
        change: ChangeType,
        previous: Option<Arc<Value>>,
        mut object: Value,
        propagation: Option<Propagation>,
    ) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let object = Arc::new(object);
        let kind = key.0;
        if change == ChangeType::Deleted {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key, Arc::clone(&object));
        }
        let entry = Arc::new(Change {
            version: self.version,
            kind,
            change,
            object: Arc::clone(&object),
            previous,
            propagation,
        });
        let log = self.logs.entry(kind).or_default();
        log.changes.push_back(Arc::clone(&entry));
        while log.changes.len() > self.log_limit {
            log.forgotten = log.changes.pop_front().map_or(log.forgotten, |c| c.version);
        }
        self.unpublished.push(entry);
        object
    }

    /// Events have a time to live in the real server; here the oldest ones go when there are too many.
    fn drop_old_events(&mut self) {
        let version = |o: &Value| {
            o["metadata"]["resourceVersion"]
                .as_str()
                .and_then(|v| v.parse::<u64>().ok())
                .unwrap_or_default()
        };
        loop {
            let events = self.objects.iter().filter(|((kind, ..), _)| *kind == Kind::Event);
            let (count, oldest) =
                events.fold((0, None::<(u64, Key, Arc<Value>)>), |(n, best), (key, object)| {
                    let v = version(object);
                    let older = best.as_ref().is_none_or(|b| v < b.0);
                    (
                        n + 1,
                        if older {
                            Some((v, key.clone(), Arc::clone(object)))
                        } else {
                            best
                        },
                    )
                });
            let Some((_, key, object)) = oldest.filter(|_| count > self.event_limit) else {
                return;
            };
            let last = object.as_ref().clone();
            self.commit(
                key,
                ChangeType::Deleted,
                Some(object),
                last,
                Some(Propagation::Background),
            );
        }
    }
}

/// The body with the `apiVersion` and `kind` of the resource, which may be left out but not be others.
fn with_type(resource: &Resource, mut body: Value) -> Result<Value, ApiError> {
    if !body.is_object() {
        return Err(ApiError::bad_request(
            "the object provided is unrecognized: the body must be a JSON object",
        ));
    }
    for (field, own) in [
        ("apiVersion", resource.api_version()),
        ("kind", resource.kind_name.to_owned()),
    ] {
        let given = body[field].as_str().unwrap_or_default();
        if !given.is_empty() && given != own {
            return Err(ApiError::bad_request(format!(
                "the {field} in the data ({given}) does not match the expected {field} ({own})"
            )));
        }
        body[field] = own.into();
    }
    if body["metadata"].is_null() {
        body["metadata"] = json!({});
    }
    Ok(body)
}

fn cannot_be_handled(resource: &Resource, why: &str) -> ApiError {
    let kind = resource.kind_name;
    let message = format!(
        "{kind} in version \"{}\" cannot be handled as a {kind}: {why}",
        resource.version
    );
    ApiError::bad_request(message)
}

fn check_namespace(metadata: &Value, namespace: &str) -> Result<(), ApiError> {
    match metadata["namespace"].as_str() {
        Some(given) if !given.is_empty() && given != namespace => Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
        _ => Ok(()),
    }
}

fn check_name(metadata: &Value, target: &Target<'_>) -> Result<(), ApiError> {
    let given = metadata["name"].as_str().unwrap_or_default();
    if given != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            target.name
        )));
    }
    check_namespace(metadata, target.namespace)
}

fn copy_field(from: &Value, to: &mut Value, field: &str) {
    match from.get(field) {
        Some(value) => to[field] = value.clone(),
        None => {
            to.as_object_mut().map(|t| t.remove(field));
        }
    }
}
