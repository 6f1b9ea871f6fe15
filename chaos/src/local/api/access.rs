//! Who may do what: bearer tokens and rules, as Kubernetes' RBAC has them.

use super::status::ApiError;
use k8s_openapi::api::rbac::v1::PolicyRule;
use std::collections::BTreeMap;

/// The user that may do everything; its token is made when the server starts.
pub const ADMIN: &str = "admin";
/// Who a request without a token is.
pub const ANONYMOUS: &str = "system:anonymous";

/// One rule of a role, with the namespace of its binding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `*`.
    pub verbs: Vec<String>,
    /// API groups, `""` for core, or `*`.
    pub api_groups: Vec<String>,
    /// Plural names, `name/subresource` for a subresource, or `*`.
    pub resources: Vec<String>,
    /// Only objects of these names; empty: all. Then `create` and an unnarrowed `list` or `watch` never match.
    pub resource_names: Vec<String>,
    /// Only in this namespace; none: in all (a ClusterRole bound by a ClusterRoleBinding).
    pub namespace: Option<String>,
}

impl Rule {
    /// A rule for all names in all namespaces.
    #[must_use]
    pub fn new(verbs: &[&str], api_group: &str, resources: &[&str]) -> Self {
        Self {
            verbs: owned(verbs),
            api_groups: vec![api_group.to_owned()],
            resources: owned(resources),
            ..Self::default()
        }
    }

    /// The same rule for these names only.
    #[must_use]
    pub fn names(mut self, names: &[&str]) -> Self {
        self.resource_names = owned(names);
        self
    }

    /// The same rule in one namespace only.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// A rule of a shipped Role, bound in `namespace`.
    #[must_use]
    pub fn from_policy(rule: &PolicyRule, namespace: Option<&str>) -> Self {
        Self {
            verbs: rule.verbs.clone(),
            api_groups: rule.api_groups.clone().unwrap_or_default(),
            resources: rule.resources.clone().unwrap_or_default(),
            resource_names: rule.resource_names.clone().unwrap_or_default(),
            namespace: namespace.map(str::to_owned),
        }
    }

    fn allows(&self, asked: &Attributes<'_>) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|x| x == "*" || x == value);
        has(&self.verbs, asked.verb)
            && has(&self.api_groups, asked.group)
            && has(&self.resources, &asked.full_resource())
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == asked.name))
            && self.namespace.as_deref().is_none_or(|n| n == asked.namespace)
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&t| t.to_owned()).collect()
}

/// What a request asks for, as the authoriser sees it. Empty texts stand for "none".
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a> {
    /// Verb.
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Plural name.
    pub resource: &'a str,
    /// Subresource.
    pub subresource: &'a str,
    /// Object's name; for a list or a watch the one of `fieldSelector=metadata.name=`.
    pub name: &'a str,
    /// Namespace; empty for all.
    pub namespace: &'a str,
}

impl Attributes<'_> {
    fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The refusal in the authoriser's words.
    #[must_use]
    pub fn forbidden(&self, user: &str) -> ApiError {
        let qualified = if self.group.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}.{}", self.resource, self.group)
        };
        let name = if self.name.is_empty() {
            String::new()
        } else {
            format!(" \"{}\"", self.name)
        };
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", self.namespace)
        };
        ApiError::forbidden(format!(
            "{qualified}{name} is forbidden: User \"{user}\" cannot {} resource \"{}\" in API group \"{}\" {scope}",
            self.verb,
            self.full_resource(),
            self.group
        ))
    }
}

#[derive(Debug)]
struct User {
    token: String,
    rules: Vec<Rule>,
}

/// The users and their rules.
#[derive(Debug)]
pub struct Access {
    users: BTreeMap<String, User>,
}

impl Access {
    /// Knows [`ADMIN`] only.
    #[must_use]
    pub fn new(admin_token: String) -> Self {
        let all = Rule::new(&["*"], "*", &["*"]);
        let admin = User {
            token: admin_token,
            rules: vec![all],
        };
        Self {
            users: BTreeMap::from([(ADMIN.to_owned(), admin)]),
        }
    }

    /// Adds a user or replaces its token and rules.
    pub fn add(&mut self, name: &str, token: &str, rules: Vec<Rule>) {
        self.users.insert(
            name.to_owned(),
            User {
                token: token.to_owned(),
                rules,
            },
        );
    }

    /// The token of a user.
    #[must_use]
    pub fn token(&self, name: &str) -> Option<&str> {
        self.users.get(name).map(|u| u.token.as_str())
    }

    /// Who sends this `Authorization` header. 401 for a token that belongs to nobody.
    pub fn authenticate(&self, header: Option<&str>) -> Result<String, ApiError> {
        let Some(header) = header else {
            return Ok(ANONYMOUS.to_owned());
        };
        let token = header
            .strip_prefix("Bearer ")
            .map(str::trim)
            .ok_or_else(ApiError::unauthorized)?;
        let user = self
            .users
            .iter()
            .find(|(_, u)| !token.is_empty() && u.token == token);
        user.map(|(name, _)| name.clone())
            .ok_or_else(ApiError::unauthorized)
    }

    /// The rule by which it is allowed, in the words of the real authoriser, which names the binding (there is one for each user
    /// here); none: no rule allows it.
    #[must_use]
    pub fn reason(&self, user: &str, asked: &Attributes<'_>) -> Option<String> {
        let rule = self
            .users
            .get(user)?
            .rules
            .iter()
            .find(|rule| rule.allows(asked))?;
        Some(match &rule.namespace {
            // Administrators are let through before rules are looked at.
            None if user == ADMIN => String::new(),
            None => format!(
                "RBAC: allowed by ClusterRoleBinding \"{user}\" of ClusterRole \"{user}\" to User \"{user}\""
            ),
            Some(namespace) => {
                format!(
                    "RBAC: allowed by RoleBinding \"{user}/{namespace}\" of Role \"{user}\" to User \"{user}\""
                )
            }
        })
    }

    /// Whether a rule of this user allows it.
    #[must_use]
    pub fn allows(&self, user: &str, asked: &Attributes<'_>) -> bool {
        self.reason(user, asked).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let mut access = Access::new("root".to_owned());
        let rule = Rule::new(&["get", "patch", "watch"], "coordination.k8s.io", &["leases"]);
        let events = Rule::new(&["create"], "events.k8s.io", &["events"]).in_namespace("db");
        access.add(
            "member",
            "m",
            vec![rule.names(&["postgres"]).in_namespace("db"), events],
        );
        access
    }

    fn asked<'a>(verb: &'a str, name: &'a str, namespace: &'a str) -> Attributes<'a> {
        Attributes {
            verb,
            group: "coordination.k8s.io",
            resource: "leases",
            name,
            namespace,
            subresource: "",
        }
    }

    #[test]
    fn rules_by_name_and_namespace() {
        let access = access();
        let may = |verb, name, ns| access.allows("member", &asked(verb, name, ns));
        assert!(may("patch", "postgres", "db"));
        assert!(may("watch", "postgres", "db"));
        assert!(
            !may("watch", "", "db"),
            "a watch of all names is more than a watch of one"
        );
        assert!(!may("create", "", "db"), "a name cannot allow a creation");
        assert!(!may("delete", "postgres", "db"));
        assert!(!may("get", "other", "db"));
        assert!(!may("get", "postgres", "elsewhere"));
        assert!(!access.allows("nobody", &asked("get", "postgres", "db")));
        let status = Attributes {
            subresource: "status",
            ..asked("patch", "postgres", "db")
        };
        assert!(!access.allows("member", &status));
        assert!(access.allows(ADMIN, &status));
    }

    #[test]
    fn tokens() {
        let access = access();
        assert_eq!(access.authenticate(Some("Bearer m")).unwrap(), "member");
        assert_eq!(access.authenticate(None).unwrap(), ANONYMOUS);
        assert_eq!(access.authenticate(Some("Bearer x")).unwrap_err().code, 401);
        assert_eq!(access.authenticate(Some("Basic m")).unwrap_err().code, 401);
    }

    #[test]
    fn refusals_read_as_those_of_kubernetes() {
        assert_eq!(
            asked("patch", "postgres", "db").forbidden("member").message,
            "leases.coordination.k8s.io \"postgres\" is forbidden: User \"member\" cannot patch resource \"leases\" \
             in API group \"coordination.k8s.io\" in the namespace \"db\""
        );
        let pods = Attributes {
            verb: "list",
            resource: "pods",
            ..Attributes::default()
        };
        assert_eq!(
            pods.forbidden("member").message,
            "pods is forbidden: User \"member\" cannot list resource \"pods\" in API group \"\" at the cluster scope"
        );
    }
}
