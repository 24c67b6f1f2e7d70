// Copies of a stopped node's database, each with one alteration: an import refuses each and writes nothing.

import { existsSync } from "node:fs";

const PLACE = "originator_node_id = $node AND originator_sequence_id = $place";

/** Alterations: a name, the statement, and the reason that the import gives. `$node` is the node, `$place` a place of its strand. */
const ALTERED = [
  ["a byte of an envelope", `UPDATE gateway_envelopes_blob SET originator_envelope = set_byte(originator_envelope,
     length(originator_envelope) - 1, get_byte(originator_envelope, length(originator_envelope) - 1) # 1)
     WHERE ${PLACE}`, /place \d+: /],
  ["the envelope of another place", `UPDATE gateway_envelopes_blob AS blob SET originator_envelope = other.originator_envelope
     FROM gateway_envelopes_blob AS other WHERE blob.originator_node_id = $node AND blob.originator_sequence_id = $place
     AND other.originator_node_id = $node AND other.originator_sequence_id > $place`, /another originator or sequence id/],
  ["a topic", `UPDATE gateway_envelopes_meta SET topic = topic || '\\x00' WHERE ${PLACE}`, /topic, payer or expiry/],
  ["an expiry", `UPDATE gateway_envelopes_meta SET expiry = expiry + 1 WHERE ${PLACE}`, /topic, payer or expiry/],
  ["the payer of an envelope", `WITH other AS (INSERT INTO payers (address)
     VALUES ('0x00000000000000000000000000000000000000aa') RETURNING id)
     UPDATE gateway_envelopes_meta SET payer_id = (SELECT id FROM other) WHERE ${PLACE}`, /topic, payer or expiry/],
  ["an envelope of 40 MiB", `UPDATE gateway_envelopes_blob
     SET originator_envelope = decode(repeat('00', 40 * 1024 * 1024), 'hex') WHERE ${PLACE}`, /more than 32 MiB/],
  ["an envelope without its bytes", `DELETE FROM gateway_envelopes_blob WHERE ${PLACE}`, /cut off/],
  ["the end of the strand", `DELETE FROM gateway_envelopes_blob WHERE originator_node_id = $node AND originator_sequence_id > $place;
     DELETE FROM gateway_envelopes_meta WHERE originator_node_id = $node AND originator_sequence_id > $place`, /cut off/],
  ["the end of the strand in three tables", `DELETE FROM gateway_envelopes_blob WHERE originator_node_id = $node AND originator_sequence_id > $place;
     DELETE FROM gateway_envelopes_meta WHERE originator_node_id = $node AND originator_sequence_id > $place;
     UPDATE gateway_envelopes_latest SET originator_sequence_id = $place WHERE originator_node_id = $node`, /lost the end/],
  ["a table", "DROP TABLE payer_report_attestations", /payer_report_attestations/],
  ["a column", "ALTER TABLE unsettled_usage RENAME COLUMN last_sequence_id TO last", /last_sequence_id/],
  ["the counter of the strand", "SELECT setval('staged_originator_envelopes_id_seq', 1)", /its counter is at 1/],
  ["a message that has no envelope yet", `INSERT INTO staged_originator_envelopes (topic, payer_envelope)
     VALUES ('\\x00', '\\x00')`, /1 messages? (was|were) accepted/],
  ["the node", "UPDATE node_info SET node_id = 900", /belongs to node 900/],
  ["the key of the node", "UPDATE node_info SET public_key = set_byte(public_key, 5, get_byte(public_key, 5) # 1)", /another key/],
  ["the address of a contract", `UPDATE latest_block SET contract_address = '0x00000000000000000000000000000000000000aa'
     WHERE contract_address = (SELECT min(contract_address) FROM latest_block)`, /no contract of this network/],
  ["the version of the tables", "UPDATE schema_migrations SET version = 22", /version/],
];

/** `importFrom(database)` runs an import that would write into `folder`. */
export async function alteredAreRefused({ node, folder, importFrom, note }) {
  const { postgres, database, id } = node;
  const copy = `${database}_altered`;
  const middle = `SELECT originator_sequence_id FROM gateway_envelopes_meta WHERE originator_node_id = ${id}
    ORDER BY originator_sequence_id OFFSET (SELECT count(*) / 2 FROM gateway_envelopes_meta WHERE originator_node_id = ${id})`;
  const place = await postgres.query(database, `${middle} LIMIT 1`);
  for (const [what, statement, reason] of ALTERED) {
    await postgres.query("postgres", `CREATE DATABASE ${copy} TEMPLATE ${database}`);
    await postgres.query(copy, statement.replaceAll("$node", id).replaceAll("$place", place));
    const said = await importFrom(copy).then(() => "it was taken", (error) => error.message);
    const text = said.trim().split("\n").at(-1);
    const isRefused = reason.test(said) && !existsSync(folder);
    note(`import of an altered database: ${what}`, text, isRefused);
    await postgres.query("postgres", `DROP DATABASE ${copy} WITH (FORCE)`);
    if (existsSync(folder)) throw new Error(`${folder} was written`);
  }
}
