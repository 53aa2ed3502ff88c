// OpenAI's SDK for Node drives the same slice as Python's.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import { withGateway } from './server.mjs';

const messages = [{ role: 'user', content: 'Hello' }];
const simulate = (script) => ({ metadata: { simulate: JSON.stringify(script) } });

test('a key from its creation to the bill and to its end', () =>
  withGateway(async ({ baseURL, adminKey, project, post }) => {
    const admin = new OpenAI({ baseURL, apiKey: 'unused', adminAPIKey: adminKey, maxRetries: 0 }).admin.organization;
    const created = await admin.projects.create({ name: 'From Node' });
    assert.equal(created.object, 'organization.project');
    const key = await post(`/v1/organization/projects/${created.id}/api_keys`, { name: 'node' });
    const client = new OpenAI({ baseURL, apiKey: key.value, maxRetries: 0 });

    const answer = await client.chat.completions.create({ model: 'gpt-4o-mini', messages, ...simulate({ text: 'Hi there' }) });
    assert.equal(answer.choices[0].message.content, 'Hi there');
    assert.match(answer._request_id, /^req_/);

    const embedded = await client.embeddings.create({ model: 'text-embedding-3-small', input: 'Hello', dimensions: 8 });
    assert.equal(embedded.data[0].embedding.length, 8);

    const models = [];
    for await (const model of client.models.list()) models.push(model.id);
    assert.ok(models.includes('gpt-4o-mini'));

    const start_time = Math.floor(Date.now() / 1000) - 3600;
    const costs = await admin.usage.costs({ start_time, group_by: ['project_id', 'line_item'] });
    const items = costs.data.flatMap((bucket) => bucket.results);
    assert.ok(items.some((item) => item.line_item === 'gpt-4o-mini, output_tokens' && item.amount.value > 0));
    assert.ok(items.every((item) => item.project_id === created.id));

    const keys = [];
    for await (const item of admin.projects.apiKeys.list(created.id)) keys.push(item.id);
    assert.deepEqual(keys, [key.id]);
    await admin.projects.apiKeys.delete(key.id, { project_id: created.id });
    await assert.rejects(client.models.list(), (error) => error.status === 401 && error.code === 'invalid_api_key');
    assert.notEqual(project, created.id);
  }));

test('a stream arrives piece by piece, with usage only if it was asked for', () =>
  withGateway(async ({ baseURL, project, post }) => {
    const key = await post(`/v1/organization/projects/${project}/api_keys`, { name: 'node' });
    const client = new OpenAI({ baseURL, apiKey: key.value, maxRetries: 0 });
    for (const include_usage of [false, true]) {
      const stream = await client.chat.completions.create({
        model: 'gpt-4o-mini',
        messages,
        stream: true,
        ...(include_usage ? { stream_options: { include_usage } } : {}),
        ...simulate({ output_tokens: 20 }),
      });
      const chunks = [];
      for await (const chunk of stream) chunks.push(chunk);
      const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? '').join('');
      assert.equal(text.trim().split(' ').length, 20);
      assert.equal(chunks.filter((chunk) => chunk.usage).length, include_usage ? 1 : 0);
      assert.equal(chunks.filter((chunk) => chunk.choices.length === 0).length, include_usage ? 1 : 0);
    }
  }));

test('a spent limit is an error that the SDK does not retry', () =>
  withGateway(async ({ baseURL, project, post }) => {
    const key = await post(`/v1/organization/projects/${project}/api_keys`, { name: 'node' });
    await post(`/v1/organization/projects/${project}/spend_limit`, { threshold_amount: 1, currency: 'USD', interval: 'month' });
    let attempts = 0;
    const counting = (...args) => (attempts++, fetch(...args));
    const client = new OpenAI({ baseURL, apiKey: key.value, maxRetries: 3, fetch: counting });
    await assert.rejects(
      client.chat.completions.create({ model: 'gpt-4o', messages, max_completion_tokens: 16000 }),
      (error) => error.status === 429 && error.code === 'project_spend_limit_exceeded' && error.type === 'insufficient_quota',
    );
    assert.equal(attempts, 1);
  }));

test('responses, completions of prompts and moderations', () =>
  withGateway(async ({ baseURL, project, post }) => {
    const key = await post(`/v1/organization/projects/${project}/api_keys`, { name: 'node' });
    const client = new OpenAI({ baseURL, apiKey: key.value, maxRetries: 0 });
    const response = await client.responses.create({ model: 'gpt-4o-mini', input: 'Hello', ...simulate({ output_tokens: 5 }) });
    assert.equal(response.output_text.trim().split(' ').length, 5);
    let text = '';
    for await (const event of await client.responses.create({ model: 'gpt-4o-mini', input: 'Hello', stream: true, ...simulate({ output_tokens: 6 }) }))
      if (event.type === 'response.output_text.delta') text += event.delta;
    assert.equal(text.trim().split(' ').length, 6);
    const completion = await client.completions.create({ model: 'gpt-3.5-turbo-instruct', prompt: ['a', 'b'], max_tokens: 3 });
    assert.deepEqual(completion.choices.map((choice) => choice.finish_reason), ['length', 'length']);
    assert.equal((await client.moderations.create({ input: 'violence' })).results[0].flagged, true);
  }));

test('a response is kept, gone on from, made in the background, and deleted', () =>
  withGateway(async ({ baseURL, project, post }) => {
    const key = await post(`/v1/organization/projects/${project}/api_keys`, { name: 'node' });
    const client = new OpenAI({ baseURL, apiKey: key.value, maxRetries: 0 });
    const model = 'gpt-4o-mini';
    const first = await client.responses.create({ model, input: 'Hello', ...simulate({ output_tokens: 5 }) });
    assert.equal((await client.responses.retrieve(first.id)).output_text, first.output_text);
    const items = [];
    for await (const item of client.responses.inputItems.list(first.id)) items.push(item.type);
    assert.deepEqual(items, ['message']);
    const second = await client.responses.create({ model, input: 'And then?', previous_response_id: first.id });
    assert.equal(second.previous_response_id, first.id);
    const background = await client.responses.create({ model, input: 'Hello', background: true, ...simulate({ background_ms: 60000 }) });
    assert.equal(background.status, 'queued');
    assert.equal((await client.responses.cancel(background.id)).status, 'cancelled');
    await client.responses.delete(first.id);
    await assert.rejects(client.responses.retrieve(first.id), (error) => error.status === 404);
    await assert.rejects(client.responses.create({ model, input: 'x', previous_response_id: first.id }), (error) => error.code === 'previous_response_not_found');
  }));
