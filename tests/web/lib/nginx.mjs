// nginx with TLS before several servers, configured as docs/proxies.md says.

import { execFileSync, spawn } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";

import { freePort } from "../../clients/lib/ports.mjs";
import { eventually } from "../../clients/lib/wait.mjs";

const DOCUMENT = new URL("../../../docs/proxies.md", import.meta.url);

function listens(port) {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1", () => resolve(socket.destroy()));
    socket.once("error", reject);
  });
}

/** A certificate that no authority has signed. Browsers are told its key's hash. */
function makeCertificate(folder) {
  const [key, certificate] = [join(folder, "privkey.pem"), join(folder, "fullchain.pem")];
  const args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost";
  const names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
  execFileSync("openssl", [...args.split(" "), ...names, "-keyout", key, "-out", certificate], { stdio: "ignore" });
  const { publicKey } = new X509Certificate(readFileSync(certificate));
  const spki = publicKey.export({ type: "spki", format: "der" });
  return createHash("sha256").update(spki).digest("base64");
}

/** The configuration of the document for one server. Names of the several are kept apart by their numbers. */
function configuration(number, port, address, folder) {
  const text = readFileSync(DOCUMENT, "utf8").split("```nginx\n")[1].split("```")[0];
  return text
    .replaceAll("listen 443", `listen 127.0.0.1:${port}`)
    .replaceAll("127.0.0.1:5050", address)
    .replaceAll("/etc/hawser", folder)
    .replaceAll("is_grpc", `is_grpc_${number}`)
    .replaceAll("hawser_http", `hawser_http_${number}`)
    .replaceAll("hawser_grpc", `hawser_grpc_${number}`);
}

export class Nginx {
  #process;
  #folder;

  /** Starts it before `addresses`. `urls` has their new places, in this order. */
  static async start(folder, addresses) {
    mkdirSync(folder, { recursive: true });
    const nginx = new Nginx();
    nginx.#folder = folder;
    nginx.keyHash = makeCertificate(folder);
    const ports = [];
    for (const _ of addresses) ports.push(await freePort());
    nginx.urls = ports.map((port) => `https://localhost:${port}`);
    const servers = addresses.map((address, number) => configuration(number, ports[number], address, folder));
    const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((name) => `${name}_temp_path ${name};`);
    const user = process.getuid() === 0 ? "user root root;" : "";
    const log = `log_format short "$request_method $status $http_origin"; access_log ${join(folder, "access.log")} short;`;
    const text = `${user} pid pid; events {} http { ${temporary.join(" ")} ${log}\n${servers.join("\n")}\n}`;
    writeFileSync(join(folder, "configuration"), text);
    const program = existsSync("/usr/sbin/nginx") ? "/usr/sbin/nginx" : "nginx";
    const args = ["-p", `${folder}/`, "-e", "stderr", "-g", "daemon off;", "-c", join(folder, "configuration")];
    nginx.#process = spawn(program, args, { stdio: ["ignore", "inherit", "inherit"] });
    const failed = new Promise((_, reject) => {
      nginx.#process.once("error", reject);
      nginx.#process.once("exit", (code) => reject(new Error(`nginx has ended: ${code}`)));
    });
    failed.catch(() => {});
    for (const port of ports) await Promise.race([failed, eventually("nginx listens", () => listens(port).then(() => true))]);
    return nginx;
  }

  /** The requests that it has passed on: method, status and origin of each. */
  passed() {
    const lines = readFileSync(join(this.#folder, "access.log"), "utf8").trim().split("\n");
    return lines.filter(Boolean).map((line) => {
      const [method, status, origin] = line.split(" ");
      return { method, status: Number(status), origin };
    });
  }

  stop() {
    this.#process?.kill("SIGTERM");
  }
}
