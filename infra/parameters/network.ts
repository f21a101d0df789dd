/** What the function may connect to. */

import type { Parameters } from './table.ts';

const ENDPOINT_SECURITY_GROUP = { 'Fn::GetAtt': ['SsmEndpointSecurityGroup', 'GroupId'] };

/** Returns the security group of an existing endpoint of SSM. @param ssm the parameter ssm-access */
export function existingEndpoint(ssm: string): string | undefined {
  return /sg-[0-9a-f]+$/.exec(ssm)?.[0];
}

/**
 * Returns the egress rules of the function's security group; it has no ingress. Security groups do not filter
 * queries to Amazon's DNS servers.
 */
export function egressRules(parameters: Parameters) {
  const { 'ssm-access': ssm, 'ledger-access': ledger, 'barman-host': barman, dns } = parameters;
  const endpoint = existingEndpoint(ssm);
  const overNat = [...(ssm === 'nat' ? ['SSM'] : []), ...(ledger === 'nat' ? ['DynamoDB'] : [])];
  const rules = [
    egress('pg-backup-api on the Barman host', barman, parameters['barman-port']),
    ...(parameters['patroni-hosts'] ?? []).map((host) =>
      egress('REST API of Patroni on the database nodes', host, parameters['patroni-port']),
    ),
    // Their public addresses change.
    ...(overNat.length > 0 ? [egress(`${overNat.join(' and ')} over the NAT`, '0.0.0.0/0', 443)] : []),
    ...(ssm === 'endpoint' ? [egress('SSM at its endpoint', ENDPOINT_SECURITY_GROUP, 443)] : []),
    ...(endpoint ? [egress('SSM at the endpoint of the VPC', endpoint, 443)] : []),
    ...(ledger === 'nat' ? [] : [egress('DynamoDB at its gateway endpoint', ledger, 443)]),
    ...(dns ?? []).flatMap((server) => [
      egress('DNS', server, 53, 'udp'),
      egress('DNS over TCP', server, 53),
    ]),
  ];
  // EC2 refuses a list in which two rules have the same target.
  const target = ({ Description: _, ...rule }: (typeof rules)[number]) => JSON.stringify(rule);
  return rules.filter((rule, index) => rules.findIndex((one) => target(one) === target(rule)) === index);
}

/** @param to a CIDR block, a prefix list, or a security group; CloudFormation accepts only one of them */
function egress(description: string, to: string | object, port: number, protocol = 'tcp') {
  return {
    Description: description,
    IpProtocol: protocol,
    FromPort: port,
    ToPort: port,
    ...(typeof to === 'object' || to.startsWith('sg-')
      ? { DestinationSecurityGroupId: to }
      : to.startsWith('pl-')
        ? { DestinationPrefixListId: to }
        : { CidrIp: to }),
  };
}
