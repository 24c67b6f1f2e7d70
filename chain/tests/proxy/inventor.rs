//! Blocks above the chain's, which a lying endpoint makes up, and times.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::number;

/// Makes up blocks above the chain's newest one.
pub(super) struct Inventor {
    pub(super) top: u64,
    /// True if none of the blocks has an event.
    pub(super) is_barren: bool,
    /// The chain's newest block.
    pub(super) head: Value,
    /// All logs of the chain.
    pub(super) logs: Value,
}

impl Inventor {
    pub(super) fn height(&self) -> u64 {
        number(&self.head["number"]).unwrap_or_default()
    }

    pub(super) fn invent(&self, asked: &Value, answer: &mut Value) {
        let params = &asked["params"][0];
        let hex = |number: u64| json!(format!("0x{number:x}"));
        match asked["method"].as_str() {
            Some("eth_blockNumber") => answer["result"] = hex(self.top),
            Some("eth_getBlockByNumber") => {
                let asked = if params == "latest" { Some(self.top) } else { number(params) };
                let above = self.height() + 1..=self.top;
                if let Some(number) = asked.filter(|number| above.contains(number)) {
                    answer["result"] = self.block(number);
                }
            }
            Some("eth_getLogs")
                if !self.is_barren && number(&params["toBlock"]) >= Some(self.top) =>
            {
                let from = number(&params["fromBlock"]).unwrap_or_default();
                let own = |log: &&Value| log["address"] == params["address"];
                let known: Vec<_> =
                    self.logs.as_array().into_iter().flatten().filter(own).collect();
                let Some(last) = known.last() else { return };
                let is_asked = |log: &&Value| number(&log["blockNumber"]) >= Some(from);
                let mut logs: Vec<_> = known.iter().copied().filter(is_asked).cloned().collect();
                logs.push(self.log(last));
                *answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": logs });
            }
            _ => {}
        }
    }

    fn block(&self, number: u64) -> Value {
        let mut block = self.head.clone();
        let is_first = number == self.height() + 1;
        block["parentHash"] =
            if is_first { self.head["hash"].clone() } else { invented_hash(number - 1) };
        block["number"] = json!(format!("0x{number:x}"));
        (block["hash"], block["transactions"]) = (invented_hash(number), json!([]));
        block
    }

    /// Returns an event of the highest block, which follows the last one of the contract.
    fn log(&self, last: &Value) -> Value {
        let mut log = last.clone();
        let sequence_id = number_of_word(&last["topics"][2]) + 1;
        log["topics"][2] = json!(format!("0x{sequence_id:064x}"));
        log["blockNumber"] = json!(format!("0x{:x}", self.top));
        (log["blockHash"], log["logIndex"]) = (invented_hash(self.top), json!("0x0"));
        log["transactionHash"] = json!(format!("0x{}", "ab".repeat(32)));
        log
    }
}

fn invented_hash(number: u64) -> Value {
    json!(format!("0xcc{number:062x}"))
}

fn number_of_word(word: &Value) -> u64 {
    let digits = word.as_str().and_then(|word| word.get(50..)).unwrap_or_default();
    u64::from_str_radix(digits, 16).unwrap_or_default()
}

/// Returns the time an hour ahead, unix seconds.
pub(super) fn unix_s_in_an_hour() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600
}
