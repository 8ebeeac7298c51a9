// Evaluates calls against policies with iam-simulate. stdin: {account, roles: {ROLE: {principal, policy, requests}}};
// stdout: {ROLE: [{result, sids}]}, one for each request, with the Sids of the statements that allow it.
import { readFileSync } from 'node:fs'
import { runSimulation } from '@cloud-copilot/iam-simulate'

const { account, roles } = JSON.parse(readFileSync(0, 'utf8'))

async function evaluate(principal, policies, { action, resource, context, resourcePolicy }) {
  const simulation = {
    request: { principal, action, resource: { resource, accountId: account }, contextVariables: context },
    identityPolicies: policies,
    serviceControlPolicies: [],
    resourceControlPolicies: [],
    resourcePolicy
  }
  const found = await runSimulation(simulation, {})
  if (found.resultType === 'error') return { result: `Invalid: ${JSON.stringify(found.errors)}`, sids: [] }
  const results = found.resultType === 'single' ? [found.result] : found.results
  // A condition key that the action does not have would be left out: the call would be judged without it.
  const ignored = results.flatMap((each) => each.ignoredContextKeys ?? [])
  if (ignored.length > 0) return { result: `Invalid: ${action} has no condition key ${ignored}`, sids: [] }
  const sids = results.flatMap(({ analysis }) =>
    (analysis.identityAnalysis?.allowStatements ?? []).map(({ explain }) => explain.identifier)
  )
  return { result: found.overallResult, sids }
}

const answers = {}
for (const [role, { principal, policy, requests }] of Object.entries(roles)) {
  const policies = [{ name: role, policy }]
  answers[role] = []
  for (const request of requests) answers[role].push(await evaluate(principal, policies, request))
}
process.stdout.write(JSON.stringify(answers))
