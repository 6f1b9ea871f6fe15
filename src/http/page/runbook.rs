//! `/runbook`: docs/runbook.md of this very version, for the night in which nothing else is at hand.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

const TEXT: &str = include_str!("../../../docs/runbook.md");

/// Its HTML, without the page around it. Made when somebody first asks.
#[must_use]
pub fn body() -> &'static str {
    static BODY: OnceLock<String> = OnceLock::new();
    BODY.get_or_init(|| rendered(TEXT))
}

/// True when the runbook has a section or a row of this name.
#[must_use]
pub fn has(name: &str) -> bool {
    static NAMES: OnceLock<BTreeSet<String>> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        let named = body().split(" id=\"").skip(1);
        named
            .filter_map(|rest| rest.split('"').next().map(str::to_owned))
            .collect()
    });
    names.contains(name)
}

/// A heading's name in links, as GitHub makes it.
fn slug(text: &str) -> String {
    let kept = text.trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        '-' | '_' => Some(c),
        _ if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
        _ => None,
    });
    kept.collect()
}

/// Headings and rows that begin with a name in code get it as their own; links to other files, which are not here, become plain text.
fn rendered(markdown: &str) -> String {
    let mut events: Vec<Event<'_>> = Vec::new();
    let mut names = headings(markdown);
    let mut leads_away = false;
    let mut row_begins = false;
    for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
        match &event {
            Event::Start(Tag::Link { dest_url, .. }) => {
                leads_away = !dest_url.starts_with('#');
                if leads_away {
                    continue;
                }
            }
            Event::End(TagEnd::Link) if leads_away => {
                leads_away = false;
                continue;
            }
            Event::Start(Tag::TableRow) => row_begins = true,
            Event::Code(name) if row_begins && names.insert(name.to_string()) => {
                events.push(Event::InlineHtml(
                    format!("<a id=\"{}\"></a>", slug_of_code(name)).into(),
                ));
            }
            _ => {}
        }
        row_begins &= matches!(event, Event::Start(Tag::TableRow | Tag::TableCell));
        events.push(event);
    }
    name_headings(&mut events);
    let mut html = String::with_capacity(markdown.len() * 2);
    html::push_html(&mut html, events.into_iter());
    html
}

/// A name in code as it is; what could end an attribute is left out.
fn slug_of_code(name: &str) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    name.chars().filter(is_plain).collect()
}

fn headings(markdown: &str) -> BTreeSet<String> {
    let lines = markdown.lines().filter_map(|line| line.strip_prefix("##"));
    lines.map(|line| slug(line.trim_start_matches('#'))).collect()
}

fn name_headings(events: &mut [Event<'_>]) {
    let mut open: Option<(usize, String)> = None;
    for at in 0..events.len() {
        match &events[at] {
            Event::Start(Tag::Heading { .. }) => open = Some((at, String::new())),
            Event::Text(text) | Event::Code(text) => {
                if let Some((_, name)) = &mut open {
                    name.push_str(text);
                }
            }
            Event::End(TagEnd::Heading(_)) => {
                if let Some((begin, name)) = open.take()
                    && let Event::Start(Tag::Heading { id, .. }) = &mut events[begin]
                {
                    *id = Some(CowStr::from(slug(&name)));
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_can_be_linked_and_nothing_leads_elsewhere() {
        let html = body();
        for heading in [
            "no_proof_in_time",
            "warnings-and-metrics",
            "look-first",
            "ArchiveFailing",
            "pledged",
        ] {
            assert!(has(heading), "{heading}");
            assert!(html.contains(&format!(" id=\"{heading}\"")), "{heading}");
        }
        assert!(!has("no_such_thing"));
        let named = html.matches(" id=\"").count();
        let different: BTreeSet<&str> = html
            .split(" id=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert_eq!(named, different.len(), "a name is given twice");
        let links = html.split("href=\"").skip(1);
        for link in links {
            let target = link.split('"').next().unwrap_or_default();
            assert!(target.strip_prefix('#').is_some_and(has), "a dead link: {target}");
        }
        assert!(html.contains("<table>") && html.contains("<pre><code"));
    }
}
