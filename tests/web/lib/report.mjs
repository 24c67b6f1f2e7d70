// The page that `hawser audit replay --html` writes: no wider than the window, on a desk and on a phone, with its pictures.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { eventually } from "../../clients/lib/wait.mjs";

const WINDOWS = {
  desk: { width: 1280, height: 900, mobile: false },
  phone: { width: 360, height: 740, mobile: true },
};
/** The verdicts of a replay by its exit codes. */
const VERDICTS = { 0: "clean", 5: "claim", 8: "faulty", 9: "incomplete" };

/** Has an auditor's keys in a file, and returns its path. */
function keysFile({ folder, network }, name, change) {
  const description = JSON.parse(readFileSync(join(network.dataDir, "network.json"), "utf8"));
  change(description.nodes);
  const path = join(folder, `${name}.json`);
  writeFileSync(path, JSON.stringify(description));
  return path;
}

/** Replays the log of the first node by these keys, and opens the page in each window. */
async function look({ hawser, network, browser, folder }, name, keys) {
  const file = join(folder, `${name}.html`);
  const node = `http://${network.nodes[0].grpc}`;
  const args = ["audit", "replay", "--from", node, "--registry", keys, "--html", file];
  const { status, stderr } = spawnSync(hawser, args, { encoding: "utf8" });
  const verdict = VERDICTS[status];
  assert.ok(verdict, `the replay has ended with ${status}: ${stderr}`);
  const page = await browser.open(pathToFileURL(file).href);
  try {
    await eventually("the report is there", () => page.run("document.readyState === 'complete' && Boolean(document.querySelector('main'))"));
    assert.equal(await page.run("document.querySelector('.verdict').textContent"), verdict);
    for (const [window, size] of Object.entries(WINDOWS)) {
      await page.resize(size);
      const width = await page.run("document.documentElement.scrollWidth");
      assert.ok(width <= size.width, `${name}: ${width} pixels are too wide for a ${window}`);
      const flat = await page.run("[...document.querySelectorAll('svg')].filter((it) => it.clientWidth < 5 || it.clientHeight < 5).length");
      assert.equal(flat, 0, `${name}: pictures that a ${window} does not show`);
      const cut = await page.run("[...document.querySelectorAll('.faults td')].filter((it) => it.getBoundingClientRect().right > document.documentElement.clientWidth).length");
      assert.equal(cut, 0, `${name}: texts of faults that end beyond a ${window}`);
      writeFileSync(join(folder, `${name}-${window}.png`), await page.picture());
    }
    assert.deepEqual(page.lines, [], "the page complains of nothing");
  } finally {
    await page.close();
  }
  return verdict;
}

/** Checks the report of an honest log, and one with faults: of an auditor who has taken the nodes' keys for each other's. */
export async function checkReport(place) {
  const honest = await look(place, "report", keysFile(place, "keys", () => {}));
  assert.notEqual(honest, "faulty");
  const swap = (nodes) => {
    [nodes[0].public_key, nodes[1].public_key] = [nodes[1].public_key, nodes[0].public_key];
  };
  await look(place, "report-with-faults", keysFile(place, "other-keys", swap));
}
