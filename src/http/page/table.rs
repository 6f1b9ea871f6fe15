//! The same for a browser without script: a plain table, as of the moment at which it was asked for.

use std::fmt::Write as _;

use crate::http::cluster::{ClusterView, MemberView, Sync};

/// HTML of the members, the verdict and the warnings.
#[must_use]
pub fn plain(view: &ClusterView) -> String {
    let mut html = String::new();
    let answer = &view.could_fail_over.answer;
    let verdict = match (&answer.to, answer.yes) {
        (Some(to), true) => format!("yes, to {to}"),
        (None, true) => "yes".to_owned(),
        (_, false) => format!("no: {}", answer.missing),
    };
    let old = if view.could_fail_over.stale {
        " (the last leader's word, which is old)"
    } else {
        ""
    };
    // Writing to a string cannot fail.
    let _ = write!(
        html,
        "<p>As {} saw it at {}. Reload for a newer look.</p><p>Could fail over now: <b>{}</b>{old}</p>\
         <table><caption>Members</caption><thead><tr><th>Member<th>Role<th>Counts<th>Follows<th>Timeline<th>Position<th>Heard\
         <th>State</tr></thead><tbody>",
        escaped(view.member.as_str()),
        escaped(&view.at),
        escaped(&verdict),
    );
    for member in &view.members {
        row(&mut html, member);
    }
    html.push_str("</tbody></table>");
    if !view.warnings.is_empty() {
        html.push_str("<h2>Warnings</h2><ul>");
        for warning in &view.warnings {
            let _ = write!(
                html,
                "<li>{}: {} <a href=\"runbook#{}\">Runbook</a></li>",
                escaped(warning.member.as_str()),
                escaped(&warning.text),
                escaped(&warning.see)
            );
        }
        html.push_str("</ul>");
    }
    html
}

fn row(html: &mut String, member: &MemberView) {
    let text = |value: Option<String>| value.unwrap_or_else(|| "not known".to_owned());
    let counts = match member.sync {
        Sync::Leads => "leads",
        Sync::Sync => "sync",
        Sync::Former => "former",
        Sync::Async => "async",
        Sync::Unknown => "not known",
    };
    let age = match member.age_ms {
        _ if member.serves => "itself".to_owned(),
        Some(ms) => format!("{}.{} s ago", ms / 1000, ms % 1000 / 100),
        None => "never".to_owned(),
    };
    let cells = [
        member.member.to_string(),
        member.role.as_str().to_owned(),
        counts.to_owned(),
        member
            .follows
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        text(member.timeline.map(|t| t.to_string())),
        text(member.lsn.map(|l| l.to_string())),
        age,
        member.error.clone().unwrap_or_else(|| member.phase.clone()),
    ];
    html.push_str("<tr>");
    for cell in cells {
        let _ = write!(html, "<td>{}", escaped(&cell));
    }
    html.push_str("</tr>");
}

/// As text between tags, or in an attribute in quotes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::cluster::tests::example;

    #[test]
    fn what_members_say_is_text_and_never_markup() {
        let mut view = example();
        view.warnings[0].text = "<script>alert('1')</script> & \"more\"".to_owned();
        view.members[1].error = Some("<img src=x>".to_owned());
        let html = plain(&view);
        assert!(!html.contains("<script") && !html.contains("<img"), "{html}");
        assert!(html.contains("&lt;script&gt;alert(&#39;1&#39;)"), "{html}");
        assert!(
            html.contains("postgres-2") && html.contains("yes, to postgres-2"),
            "{html}"
        );
    }
}
