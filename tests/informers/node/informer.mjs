// An informer of @kubernetes/client-node that prints what it is told, a JSON line each. Every change
// carries the informer's own cache as it stands after it.
import * as k8s from "@kubernetes/client-node";

const PATH = "/apis/net.alpha.kubernetes.io/v1alpha1/networkpolicys";
const server = process.argv[2];
const config = new k8s.KubeConfig();
config.loadFromOptions({
  clusters: [{ name: "server", server, skipTLSVerify: true }],
  users: [{ name: "nobody" }],
  contexts: [{ name: "it", cluster: "server", user: "nobody" }],
  currentContext: "it",
});

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const key = (object) => `${object.metadata.namespace}/${object.metadata.name}`;
const version = (object) => Number(object.metadata.resourceVersion);
const versions = (objects) => Object.fromEntries(objects.map((o) => [key(o), version(o)]));

const list = async () => {
  const answer = await fetch(server + PATH);
  if (!answer.ok) throw new Error(`list: ${answer.status}`);
  const body = await answer.json();
  say({ type: "LIST", version: version(body), items: versions(body.items) });
  return body;
};

const informer = k8s.makeInformer(config, PATH, list);
for (const [verb, type] of [["add", "ADDED"], ["update", "MODIFIED"], ["delete", "DELETED"]]) {
  informer.on(verb, (object) => {
    say({ type, key: key(object), version: version(object), cache: versions(informer.list()) });
  });
}
informer.on("error", (error) => {
  say({ type: "ERROR", error: String(error) });
  setTimeout(() => informer.start(), 50);
});
await informer.start();
