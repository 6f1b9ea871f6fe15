//! The kinds of objects that this API server knows, and under which paths they are served.

use std::fmt;

/// A kind of object, as it is stored. [`Kind::Event`] is served in two API groups and stored once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `coordination.k8s.io/v1` Lease
    Lease,
    /// `apps/v1` StatefulSet
    StatefulSet,
    /// `apps/v1` ControllerRevision
    ControllerRevision,
    /// `v1` Service
    Service,
    /// `v1` Pod
    Pod,
    /// `v1` Secret
    Secret,
    /// `v1` and `events.k8s.io/v1` Event
    Event,
}

impl Kind {
    /// All kinds, in a fixed order.
    pub const ALL: [Self; 7] = [
        Self::Lease,
        Self::StatefulSet,
        Self::ControllerRevision,
        Self::Service,
        Self::Pod,
        Self::Secret,
        Self::Event,
    ];

    /// The name as it stands in an object's `kind` field.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.resource().kind_name
    }

    /// The resource in whose form objects of this kind are stored and handed to the rig (for events: core/v1).
    #[must_use]
    pub fn resource(self) -> &'static Resource {
        match self {
            Self::Lease => &LEASES,
            Self::StatefulSet => &STATEFULSETS,
            Self::ControllerRevision => &CONTROLLER_REVISIONS,
            Self::Service => &SERVICES,
            Self::Pod => &PODS,
            Self::Secret => &SECRETS,
            Self::Event => &CORE_EVENTS,
        }
    }

    /// Whether a `status` subresource exists; then a write to the object itself leaves `status` as it is.
    #[must_use]
    pub fn has_status(self) -> bool {
        matches!(self, Self::StatefulSet | Self::Service | Self::Pod)
    }

    /// Whether the server counts the changes of `spec` (for pods since Kubernetes 1.33).
    #[must_use]
    pub fn has_generation(self) -> bool {
        matches!(self, Self::StatefulSet | Self::Pod)
    }

    /// Whether a deletion is answered with the object instead of a `Status`.
    #[must_use]
    pub fn deletion_shows_object(self) -> bool {
        matches!(self, Self::Service | Self::Pod)
    }

    /// Whether a PUT to a name that does not exist creates the object, as the real server has it per kind.
    #[must_use]
    pub fn put_creates(self) -> bool {
        matches!(self, Self::Lease | Self::Service | Self::Event)
    }

    /// Whether a write without `metadata.resourceVersion` is accepted (a PUT, or a patch that takes it away), as the real server has it per kind.
    #[must_use]
    pub fn put_without_version(self) -> bool {
        !matches!(self, Self::Lease)
    }

    /// Fields beside `metadata.name` and `metadata.namespace` by which a list or a watch can be narrowed.
    #[must_use]
    pub fn selectable_fields(self) -> &'static [&'static str] {
        match self {
            Self::Pod => &[
                "spec.nodeName",
                "spec.restartPolicy",
                "status.phase",
                "status.podIP",
            ],
            Self::Secret => &["type"],
            Self::Event => &[
                "reason",
                "type",
                "involvedObject.kind",
                "involvedObject.name",
                "involvedObject.namespace",
                "involvedObject.uid",
                "involvedObject.apiVersion",
                "involvedObject.resourceVersion",
                "involvedObject.fieldPath",
                "reportingComponent",
            ],
            Self::Service => &["spec.clusterIP", "spec.type"],
            Self::Lease | Self::StatefulSet | Self::ControllerRevision => &[],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One served resource: an API group, a version and a plural name.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// API group, empty for core.
    pub group: &'static str,
    /// API version, without the group.
    pub version: &'static str,
    /// Name in the path: `leases`.
    pub plural: &'static str,
    /// Name in the object: `Lease`.
    pub kind_name: &'static str,
    /// What is stored under it.
    pub kind: Kind,
}

impl Resource {
    /// The `apiVersion` of its objects.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `leases.coordination.k8s.io`, the way messages of the API server name a resource.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `Lease.coordination.k8s.io`, the way validation messages name a kind.
    #[must_use]
    pub fn qualified_kind(&self) -> String {
        if self.group.is_empty() {
            self.kind_name.to_owned()
        } else {
            format!("{}.{}", self.kind_name, self.group)
        }
    }
}

const fn resource(
    group: &'static str,
    plural: &'static str,
    kind_name: &'static str,
    kind: Kind,
) -> Resource {
    Resource {
        group,
        version: "v1",
        plural,
        kind_name,
        kind,
    }
}

static LEASES: Resource = resource("coordination.k8s.io", "leases", "Lease", Kind::Lease);
static STATEFULSETS: Resource = resource("apps", "statefulsets", "StatefulSet", Kind::StatefulSet);
static CONTROLLER_REVISIONS: Resource = resource(
    "apps",
    "controllerrevisions",
    "ControllerRevision",
    Kind::ControllerRevision,
);
static SERVICES: Resource = resource("", "services", "Service", Kind::Service);
static PODS: Resource = resource("", "pods", "Pod", Kind::Pod);
static SECRETS: Resource = resource("", "secrets", "Secret", Kind::Secret);
static CORE_EVENTS: Resource = resource("", "events", "Event", Kind::Event);
static NEW_EVENTS: Resource = resource("events.k8s.io", "events", "Event", Kind::Event);
/// Answered, never stored: its kind stands for nothing.
pub(super) static ACCESS_REVIEWS: Resource = resource(
    "authorization.k8s.io",
    "selfsubjectaccessreviews",
    "SelfSubjectAccessReview",
    Kind::Event,
);

/// The resource served under this group, version and plural name, if any.
#[must_use]
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    [
        &LEASES,
        &STATEFULSETS,
        &CONTROLLER_REVISIONS,
        &SERVICES,
        &PODS,
        &SECRETS,
        &CORE_EVENTS,
        &NEW_EVENTS,
    ]
    .into_iter()
    .find(|r| r.group == group && r.version == version && r.plural == plural)
}
