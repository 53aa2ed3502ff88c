// A real server process over a real simulated provider, in a directory of their own.
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, openSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import assert from 'node:assert/strict';

const BINARY = process.env.TOLLGATE_BINARY;

const environment = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !name.startsWith('TOLLGATE_') && !name.startsWith('OPENAI_')),
);

async function start(log, ...args) {
  const child = spawn(BINARY, args, { env: environment, stdio: ['ignore', 'pipe', openSync(log, 'a')] });
  for await (const line of createInterface({ input: child.stdout })) return { child, url: line.trim() };
  throw new Error(`did not start: ${readFileSync(log, 'utf8')}`);
}

function stop({ child }) {
  return new Promise((resolve) => {
    child.once('exit', resolve);
    child.kill('SIGTERM');
  });
}

// Runs `work` with a server whose models are the simulated provider's; afterwards the books must balance.
export async function withGateway(work) {
  const home = mkdtempSync(join(tmpdir(), 'tollgate-node-'));
  const data = join(home, 'data');
  const file = join(home, 'bootstrap.json');
  const simulator = await start(join(home, 'simulator.log'), 'simulate', '--listen', '127.0.0.1:0');
  const server = await start(join(home, 'server.log'), 'serve', '--data', data, '--listen', '127.0.0.1:0', '--bootstrap-file', file);
  try {
    const bootstrap = JSON.parse(readFileSync(file, 'utf8'));
    const post = async (path, body) => {
      const answer = await fetch(server.url + path, {
        method: 'POST',
        headers: { Authorization: `Bearer ${bootstrap.admin_api_key}`, 'Content-Type': 'application/json' },
        body: JSON.stringify(body),
      });
      assert.equal(answer.status, 200, await answer.clone().text());
      return answer.json();
    };
    await post('/tollgate/v1/upstreams', { name: 'simulator', base_url: simulator.url });
    await work({ baseURL: bootstrap.base_url, adminKey: bootstrap.admin_api_key, project: bootstrap.project_id, post });
  } finally {
    const code = await stop(server);
    await stop(simulator);
    assert.equal(code, 0, readFileSync(join(home, 'server.log'), 'utf8'));
    const checked = spawnSync(BINARY, ['fsck', '--data', data], { env: environment, encoding: 'utf8' });
    assert.equal(checked.status, 0, checked.stdout);
    rmSync(home, { recursive: true });
  }
}
