"""The same policies as the usual ruleset: a jump for each local pod, a rule for each policy.

That is how kube-router and Felix lay out iptables, in nft's words: one chain after the other is
tried until the packet's pod has been found; in the pod's chain what is established passes, and
then the policies are tried one by one. Peers are in hash sets there too.
"""

from collections.abc import Iterator

from bench.population import NODE, Objects


def ruleset(objects: Objects) -> str:
    """For the pods of the node, as nft commands."""
    return "\n".join(_lines(objects)) + "\n"


def _lines(objects: Objects) -> Iterator[str]:
    pods = [(item["metadata"]["labels"], item["status"]["podIP"], item) for item in objects.pods]
    local = [(labels, ip) for labels, ip, item in pods if item["spec"]["nodeName"] == NODE]
    yield "table inet linear {"
    for number, policy in enumerate(objects.policies):
        (rule,) = policy["spec"]["allowIncoming"]
        (peers,) = (peer["pods"] for peer in rule["from"])
        members = [ip for labels, ip, _ in pods if peers.items() <= labels.items()]
        yield f"  set peers{number} {{"
        yield "    type ipv4_addr"
        yield f"    elements = {{ {', '.join(members)} }}"
        yield "  }"
    for number, (labels, _) in enumerate(local):
        yield f"  chain pod{number} {{"
        yield "    ct state established,related accept"
        for index, policy in enumerate(objects.policies):
            if policy["spec"]["podSelector"].items() <= labels.items():
                for port in policy["spec"]["allowIncoming"][0]["toPorts"]:
                    protocol = port["protocol"].lower()
                    yield f"    ip saddr @peers{index} {protocol} dport {port['port']} accept"
        yield "    drop"
        yield "  }"
    yield "  chain forward {"
    yield "    type filter hook forward priority filter + 10; policy accept;"
    for number, (_, ip) in enumerate(local):
        yield f"    ip daddr {ip} jump pod{number}"
    yield "  }"
    yield "}"
