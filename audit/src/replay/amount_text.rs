//! Amounts in JSON are text: many programs read numbers as doubles, which have 53 bits, and an amount in picodollars
//! may have 64.

use hawser_rules::PicoDollarPrice;
use hawser_rules::payer_report::SettledAmount;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

/// Writes an amount as text.
pub(super) fn serialize<S: Serializer>(amount: &PicoDollarPrice, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&amount.0)
}

/// Writes an amount that a settlement takes as text.
pub(super) fn serialize_settled<S: Serializer>(
    amount: &SettledAmount,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_str(&amount.0)
}

/// Reads an amount: text, or a number as earlier versions have written it.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PicoDollarPrice, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Amount {
        Text(String),
        Number(u64),
    }
    match Amount::deserialize(from)? {
        Amount::Text(text) => text.parse::<u64>().map(PicoDollarPrice).map_err(D::Error::custom),
        Amount::Number(amount) => Ok(PicoDollarPrice(amount)),
    }
}

#[cfg(test)]
mod tests {
    use hawser_rules::PicoDollarPrice;
    use serde_json::json;

    use crate::replay::PayerFigures;

    #[test]
    fn an_amount_is_written_as_text_and_a_number_of_an_earlier_version_is_read() {
        let (picodollars, stated) = (PicoDollarPrice(u64::MAX), PicoDollarPrice((1 << 53) + 1));
        let figures = PayerFigures { messages: 1, picodollars, stated_picodollars: stated };
        let written = serde_json::to_value(figures).unwrap();
        let expected = json!({
            "messages": 1,
            "picodollars": "18446744073709551615",
            "stated_picodollars": "9007199254740993",
        });
        assert_eq!(written, expected);
        assert_eq!(serde_json::from_value::<PayerFigures>(written).unwrap(), figures);
        let read = |amount: serde_json::Value| {
            let figures = json!({ "messages": 1, "picodollars": amount, "stated_picodollars": 5 });
            serde_json::from_value::<PayerFigures>(figures).ok().map(|it| it.picodollars)
        };
        assert_eq!(read(json!(7)), Some(PicoDollarPrice(7)));
        for other in
            [json!("x"), json!("-1"), json!(-1), json!("18446744073709551616"), json!(null)]
        {
            assert_eq!(read(other), None);
        }
    }
}
