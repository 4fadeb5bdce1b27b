// A user's session with the TypeScript SDK 1.x: the same as `python_sdk_1.py`, with the same output.
// The arguments are the directory of the npm packages, and where the server is, as JSON.

import { createInterface } from "node:readline/promises";
import { pathToFileURL } from "node:url";

const [modules, where] = process.argv.slice(2);
const sdk = (file) => import(pathToFileURL(`${modules}/@modelcontextprotocol/sdk/dist/esm/client/${file}`));
const { Client } = await sdk("index.js");
const { StdioClientTransport } = await sdk("stdio.js");
const { StreamableHTTPClientTransport } = await sdk("streamableHttp.js");

const server = JSON.parse(where);
const transport = server.url
  ? new StreamableHTTPClientTransport(new URL(server.url), { requestInit: { headers: server.headers } })
  : new StdioClientTransport(server);
const client = new Client({ name: "old-client", version: "1" });
await client.connect(transport);

const call = (name, given, options) => client.callTool({ name, arguments: given }, undefined, options);
const create = async (story) => {
  const given = { input: "What does grid-scale battery storage cost?", metadata: { sim: story } };
  return (await call("create_task", given)).structuredContent.run_id;
};

const { tools } = await client.listTools();
await client.listResources();
const { resourceTemplates } = await client.listResourceTemplates();
const { prompts } = await client.listPrompts();

const runId = await create("latency=300 messages=20");
const progress = [];
const onprogress = ({ progress: value, total, message }) => progress.push([value, total, message]);
const watched = await call("watch_progress", { id: runId }, { onprogress });
const result = await call("get_result", { id: runId });
const report = await client.readResource({ uri: `parallel://runs/${runId}/report.md` });

const endless = await create("never messages=2");
let gaveUp = "";
try {
  await call("watch_progress", { id: endless }, { timeout: 1000 }); // this SDK then tells the server
} catch (error) {
  gaveUp = error.message;
}
console.log(
  JSON.stringify({
    server: client.getServerVersion().name,
    tools: tools.map((tool) => tool.name),
    templates: resourceTemplates.map((template) => template.uriTemplate),
    prompts: prompts.map((prompt) => prompt.name),
    progress,
    watched: watched.structuredContent,
    result: result.content[0].text,
    report: report.contents[0].text,
    gave_up: gaveUp,
  }),
);
const lines = createInterface({ input: process.stdin });
await lines.question("");
lines.close();
const status = await call("get_status", { ids: [endless] });
console.log(JSON.stringify({ status: status.structuredContent }));
await client.close();
