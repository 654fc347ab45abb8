#!/usr/bin/env python3
"""The outcome of a run of kubernetes' suite, by group of specs: junit_01.xml in, a table out. Status 1 if a spec failed or none ran."""

import re
import sys
import xml.etree.ElementTree as ElementTree


def main():
    groups, failed = {}, []
    for case in ElementTree.parse(sys.argv[1]).iter("testcase"):
        name = case.get("name")
        if not name.startswith("[It] ") or case.get("status") == "skipped" and case.find("skipped").get("message") in (None, "", "skipped"):
            continue  # Not chosen, or set-up and tear-down.
        group = re.match(r"\[It\] \[sig-network\] (?:\[Feature:[^]]*\] )?(\[?[\w-]+\]?(?: [A-Z][\w-]*)*)", name)
        group = group.group(1) if group else "others"
        row = groups.setdefault(group, {"passed": 0, "failed": 0, "skipped": 0, "seconds": 0.0})
        status = case.get("status")
        row["skipped" if status == "skipped" else "passed" if status == "passed" else "failed"] += 1
        row["seconds"] += float(case.get("time"))
        if status not in ("passed", "skipped"):
            failed.append(name[5:])
        elif status == "skipped":
            print(f"skipped itself: {name[5:]}: {case.find('skipped').get('message').splitlines()[0]}")
    for group, row in sorted(groups.items()):
        print(f"{group}: {row['passed']} passed, {row['failed']} failed, {row['skipped']} skipped, {row['seconds']:.0f} s")
    for name in failed:
        print(f"FAILED: {name}")
    passed = sum(row["passed"] for row in groups.values())
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed or passed == 0 else 0


sys.exit(main())
