// A page's own server. It serves the modules of packages as they are published: only names of packages, which browsers
// cannot look up, are replaced by their paths.

import { createServer } from "node:http";
import { existsSync, readFileSync } from "node:fs";
import { dirname, extname, join, normalize, relative } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = dirname(dirname(fileURLToPath(import.meta.url)));
const PACKAGES = join(HERE, "node_modules");
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".wasm": "application/wasm",
};
const IMPORT = /(\bfrom\s*|\bimport\s*\(?\s*)(["'])([^"'./][^"']*)\2/g;
const CONDITIONS = ["browser", "import", "module", "default"];

/** The file that a condition of `exports` names. */
function chosen(entry) {
  if (typeof entry === "string" || entry === undefined) return entry;
  for (const condition of CONDITIONS) {
    const found = entry[condition] === undefined ? undefined : chosen(entry[condition]);
    if (found) return found;
  }
  return undefined;
}

/** The folder of a package, as a module in `file` finds it; undefined if there is none. */
function folderOf(owner, file) {
  for (let folder = dirname(file); folder.startsWith(HERE); folder = dirname(folder)) {
    const found = join(folder, "node_modules", owner);
    if (existsSync(join(found, "package.json"))) return found;
  }
  return undefined;
}

/** The path at which a module in `file` can import a package's name; undefined if there is no such package. */
function pathOf(name, file) {
  const parts = name.split("/");
  const own = name.startsWith("@") ? 2 : 1;
  const [owner, rest] = [parts.slice(0, own).join("/"), parts.slice(own).join("/")];
  const folder = folderOf(owner, file);
  if (!folder) return undefined;
  const { exports, module, main } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const whole = exports === undefined || exports["."] !== undefined ? (module ?? main) : exports;
  const entry = exports?.[rest ? `./${rest}` : "."] ?? (rest ? undefined : whole);
  return `/packages/${relative(PACKAGES, join(folder, chosen(entry) ?? (rest || "index.js")))}`;
}

const withPaths = (source, file) =>
  source.replace(IMPORT, (whole, before, quote, name) => {
    const path = pathOf(name, file);
    return path ? `${before}${quote}${path}${quote}` : whole;
  });

function fileOf(url) {
  const path = normalize(decodeURIComponent(new URL(url, "http://page").pathname));
  if (path.startsWith("/packages/")) {
    const file = join(PACKAGES, path.slice("/packages/".length));
    // A package may name its worker without the end of the file's name, as bundlers let it.
    return extname(file) === "" && existsSync(`${file}.js`) ? `${file}.js` : file;
  }
  return join(HERE, "page", path === "/" ? "index.html" : path);
}

/**
 * Starts one. `isolated`: the page asks to be alone in its process, as pages do that share memory with workers; such
 * a page loads from other origins only what they allow.
 */
export async function serveOrigin({ isolated = false } = {}) {
  const server = createServer((request, response) => {
    try {
      const file = fileOf(request.url);
      const type = TYPES[extname(file)] ?? "application/octet-stream";
      const content = readFileSync(file);
      response.setHeader("content-type", type);
      if (isolated) {
        response.setHeader("cross-origin-opener-policy", "same-origin");
        response.setHeader("cross-origin-embedder-policy", "require-corp");
      }
      response.end(type === TYPES[".js"] ? withPaths(content.toString(), file) : content);
    } catch {
      response.writeHead(404).end();
    }
  });
  // nginx keeps idle connections for a minute, and does not repeat a request that meets one as it is closed.
  server.keepAliveTimeout = 0;
  await new Promise((done, failed) => server.once("error", failed).listen(0, "127.0.0.1", done));
  return { port: server.address().port, close: () => server.close() };
}
