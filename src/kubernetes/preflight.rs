//! Asks the API server whether this account has a right (SelfSubjectAccessReview). Everybody who is logged in may ask.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::client::with_causes;
use super::object::CALL_TIMEOUT;
use crate::core::preflight::Right;

/// Whether the account of `client` has this right in `namespace`.
///
/// # Errors
/// When that is not known: no answer in time, a refusal, or an authoriser that could not judge. For people.
pub async fn is_granted(client: &Client, namespace: &str, right: &Right) -> Result<bool, String> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.to_owned()),
                verb: Some(right.verb.to_owned()),
                group: Some(right.group.to_owned()),
                resource: Some(right.resource.to_owned()),
                name: right.name.clone(),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let params = PostParams::default();
    let answer = tokio::time::timeout(CALL_TIMEOUT, reviews.create(&params, &review)).await;
    let status = match answer {
        Err(_) => return Err(format!("no answer within {CALL_TIMEOUT:?}")),
        Ok(Err(error)) => return Err(with_causes(&error)),
        Ok(Ok(review)) => review.status.ok_or("the answer carries no status")?,
    };
    match status.evaluation_error {
        // One of several authorisers failed: those that did answer may have granted it, but none has said no.
        Some(error) if !status.allowed && status.denied != Some(true) => Err(error),
        _ => Ok(status.allowed),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubernetes::fake::FakeApi;

    fn right(verb: &'static str, name: Option<&str>) -> Right {
        Right {
            group: "apps",
            resource: "statefulsets",
            name: name.map(str::to_owned),
            verb,
        }
    }

    #[tokio::test]
    async fn the_right_is_asked_about_as_it_would_be_used() {
        let api = FakeApi::default();
        api.deny("patch", "statefulsets/postgres-2");
        let client = api.client();
        let ask = async |right| is_granted(&client, "db", &right).await;
        assert_eq!(ask(right("patch", Some("postgres-2"))).await, Ok(false));
        assert_eq!(ask(right("get", Some("postgres-2"))).await, Ok(true));
        assert_eq!(ask(right("create", None)).await, Ok(true));
        let asked: Vec<_> = api
            .requests()
            .into_iter()
            .map(|(_, body)| body["spec"].clone())
            .collect();
        let attributes = json!({ "namespace": "db", "verb": "patch", "group": "apps", "resource": "statefulsets",
            "name": "postgres-2" });
        assert_eq!(asked[0], json!({ "resourceAttributes": attributes }));
        assert_eq!(asked[2]["resourceAttributes"].get("name"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_without_an_answer_says_nothing_of_the_right() {
        let api = FakeApi::default();
        let client = api.client();
        let asked = right("patch", Some("postgres-2"));
        api.forbid("POST", "selfsubjectaccessreviews");
        let refused = is_granted(&client, "db", &asked).await;
        assert!(refused.is_err_and(|why| why.contains("forbidden")));
        api.hang(true);
        let silent = is_granted(&client, "db", &asked).await;
        assert!(silent.is_err_and(|why| why.contains("no answer")));
    }
}
