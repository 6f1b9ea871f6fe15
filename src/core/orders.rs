//! What people order: annotations on the Lease, so that Kubernetes' RBAC guards them (DESIGN.md section 9). The command
//! writes the order, the member concerned answers beside it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use super::types::MemberName;

/// Annotation of the Lease that holds the order.
pub const ORDER_ANNOTATION: &str = "pgbaton.dev/order";
/// Annotation of the Lease that holds the answer.
pub const ORDER_RESULT_ANNOTATION: &str = "pgbaton.dev/order-result";
/// Longest order or answer that is read, in bytes.
pub const MAX_ORDER_BYTES: usize = 4096;
/// Longest text in an answer, in bytes; longer ones are cut when rendered.
pub const MAX_RESULT_TEXT: usize = 1024;
/// Hexadecimal digits of an order's id.
pub const ORDER_ID_DIGITS: usize = 16;

/// Names one order, so that an answer to an earlier one is not taken for an answer to this one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct OrderId(String);

impl OrderId {
    /// The id of these random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; ORDER_ID_DIGITS / 2]) -> Self {
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for OrderId {
    type Err = BadOrder;

    fn from_str(text: &str) -> Result<Self, BadOrder> {
        let good = text.len() == ORDER_ID_DIGITS
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadOrder::Unreadable(format!(
                "id '{}': expected {ORDER_ID_DIGITS} lower-case hexadecimal digits",
                clipped(text, 40)
            )))
        }
    }
}

impl<'de> Deserialize<'de> for OrderId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// What can be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderKind {
    /// Hand over on purpose, losing nothing. The leader answers.
    Switchover,
    /// Promote the member named without proof (waives invariant 4 only). That member answers.
    Failover,
    /// No takeover until `Resume`; permits go on. The leader answers.
    Pause,
    /// Ends `Pause`. The leader answers.
    Resume,
    /// Write the record anew from the data of the member named. That member answers.
    Adopt,
}

impl OrderKind {
    /// The command's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Failover => "failover",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Adopt => "adopt",
        }
    }
}

impl fmt::Display for OrderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One order, as it stands in `ORDER_ANNOTATION`. Unknown fields and orders are refused: a person's order that is only half
/// understood is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderNote {
    /// Its name; the answer repeats it.
    pub id: OrderId,
    /// What.
    pub order: OrderKind,
    /// To or for whom: optional for a switchover, needed for a failover and an adoption, absent elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<MemberName>,
    /// The person accepts that acknowledged commits may be lost; a failover needs it, nothing else takes it.
    #[serde(default)]
    pub accept_data_loss: bool,
    /// When it was given (RFC 3339). For people; nothing is decided by it.
    pub at: String,
}

/// Why an annotation is not an order, or not an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOrder {
    /// Not JSON of this shape.
    #[error("the order is not readable: {0}")]
    Unreadable(String),
    /// Longer than `MAX_ORDER_BYTES`.
    #[error("the order has {0} bytes, at most {MAX_ORDER_BYTES} are read")]
    TooLong(usize),
    /// Says two things at once, or too little.
    #[error("the order contradicts itself: {0}")]
    Inconsistent(&'static str),
}

impl OrderNote {
    /// Reads the annotation's text.
    ///
    /// # Errors
    /// When it is not an order that this build knows, or says too much or too little.
    pub fn parse(text: &str) -> Result<Self, BadOrder> {
        let order: Self = read(text)?;
        order.check()?;
        Ok(order)
    }

    /// The annotation's text.
    #[must_use]
    pub fn render(&self) -> String {
        // A tree of plain values with string keys always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The rules between the fields.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(&self) -> Result<(), BadOrder> {
        let broken = match (self.order, &self.to) {
            (OrderKind::Failover, None) => Some("a failover names the member to promote (to)"),
            (OrderKind::Adopt, None) => Some("an adoption names the member whose data counts (to)"),
            (OrderKind::Pause | OrderKind::Resume, Some(_)) => Some("pause and resume name no member (to)"),
            _ if self.order == OrderKind::Failover && !self.accept_data_loss => {
                Some("a failover accepts the loss of data (accept_data_loss)")
            }
            _ if self.order != OrderKind::Failover && self.accept_data_loss => {
                Some("only a failover accepts the loss of data (accept_data_loss)")
            }
            _ => None,
        };
        broken.map_or(Ok(()), |rule| Err(BadOrder::Inconsistent(rule)))
    }
}

/// How far an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderState {
    /// Seen, and it will be tried.
    Accepted,
    /// Being carried out.
    Running,
    /// Carried out: final.
    Done,
    /// Not carried out, or given up with nothing half done: final. The text says why.
    Refused,
}

impl OrderState {
    /// No other answer follows.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Refused)
    }
}

/// The answer, as it stands in `ORDER_RESULT_ANNOTATION`. Unknown fields are tolerated: a newer member may say more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderResult {
    /// The order answered.
    pub id: OrderId,
    /// How far it is.
    pub state: OrderState,
    /// For people: what was done, what is awaited, or why not and what to do.
    pub text: String,
}

impl OrderResult {
    /// Reads the annotation's text.
    ///
    /// # Errors
    /// When it is not an answer of this shape.
    pub fn parse(text: &str) -> Result<Self, BadOrder> {
        read(text)
    }

    /// The annotation's text, within `MAX_ORDER_BYTES`.
    #[must_use]
    pub fn render(&self) -> String {
        let short = Self {
            text: clipped(&self.text, MAX_RESULT_TEXT),
            ..self.clone()
        };
        serde_json::to_string(&short).unwrap_or_default()
    }
}

fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, BadOrder> {
    if text.len() > MAX_ORDER_BYTES {
        return Err(BadOrder::TooLong(text.len()));
    }
    serde_json::from_str(text).map_err(|e| BadOrder::Unreadable(e.to_string()))
}

/// At most `max` bytes of `text`, cut between characters.
pub(crate) fn clipped(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let ellipsis = "...";
    let mut end = max.saturating_sub(ellipsis.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{ellipsis}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switchover() -> OrderNote {
        OrderNote {
            id: OrderId::from_random([0xab; 8]),
            order: OrderKind::Switchover,
            to: Some("postgres-2".parse().unwrap()),
            accept_data_loss: false,
            at: "2026-01-02T03:04:05Z".into(),
        }
    }

    #[test]
    fn an_order_is_read_back_as_written() {
        let order = switchover();
        assert_eq!(OrderNote::parse(&order.render()), Ok(order));
    }

    #[test]
    fn the_short_form_a_person_may_write_is_read() {
        let text = r#"{"id":"0123456789abcdef","order":"pause","at":"2026-01-02T03:04:05Z"}"#;
        let order = OrderNote::parse(text).unwrap();
        assert_eq!(
            (order.order, order.to, order.accept_data_loss),
            (OrderKind::Pause, None, false)
        );
    }

    #[test]
    fn what_is_not_understood_in_full_is_refused() {
        let bad = [
            "",
            "{}",
            "[]",
            r#"{"id":"0123456789abcdef","order":"explode","at":""}"#,
            r#"{"id":"0123456789abcdef","order":"pause","at":"","force":true}"#,
            r#"{"id":"ABC","order":"pause","at":""}"#,
            r#"{"id":"0123456789abcdef","order":"switchover","to":"Postgres 2","at":""}"#,
        ];
        for text in bad {
            assert!(
                matches!(OrderNote::parse(text), Err(BadOrder::Unreadable(_))),
                "{text}"
            );
        }
        let long = format!("{}{}", " ".repeat(MAX_ORDER_BYTES), switchover().render());
        assert!(matches!(OrderNote::parse(&long), Err(BadOrder::TooLong(_))));
    }

    #[test]
    fn orders_that_say_too_much_or_too_little_are_refused() {
        let named = switchover();
        let with = |order, to: bool, accept_data_loss| OrderNote {
            order,
            to: named.to.clone().filter(|_| to),
            accept_data_loss,
            ..named.clone()
        };
        let table = [
            (OrderKind::Switchover, true, false, true),
            (OrderKind::Switchover, false, false, true),
            (OrderKind::Switchover, true, true, false),
            (OrderKind::Failover, true, true, true),
            (OrderKind::Failover, true, false, false),
            (OrderKind::Failover, false, true, false),
            (OrderKind::Adopt, true, false, true),
            (OrderKind::Adopt, false, false, false),
            (OrderKind::Pause, false, false, true),
            (OrderKind::Pause, true, false, false),
            (OrderKind::Resume, false, true, false),
        ];
        for (kind, to, loss, good) in table {
            let order = with(kind, to, loss);
            assert_eq!(OrderNote::parse(&order.render()).is_ok(), good, "{order:?}");
        }
    }

    #[test]
    fn an_answer_is_cut_to_what_will_be_read_again() {
        let result = OrderResult {
            id: OrderId::from_random([1; 8]),
            state: OrderState::Refused,
            text: "é".repeat(3000),
        };
        let read = OrderResult::parse(&result.render()).unwrap();
        assert!(read.text.ends_with("...") && read.text.len() <= MAX_RESULT_TEXT);
        assert!(read.state.is_final());
    }
}
