/**
 * `npm run release -- --stage S`: writes dist/, from which a stage is deployed without Node.js: the function's code, the stage's
 * CloudFormation template, which has the place of the code as its parameters, an SBOM (CycloneDX), and checksums. It needs no AWS account.
 */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

interface Template {
  Parameters?: object;
  readonly Resources: Record<string, { readonly Properties: Record<string, unknown> }>;
  readonly Outputs: Record<string, unknown>;
}

const DIST = 'dist';
const PACKAGE = '.serverless';

rmSync(DIST, { recursive: true, force: true });
mkdirSync(DIST);
const options = process.argv.slice(2);
execFileSync(process.execPath, ['node_modules/serverless/bin/serverless.js', 'package', ...options], {
  stdio: ['ignore', 'inherit', 'inherit'],
});

const template = JSON.parse(
  readFileSync(join(PACKAGE, 'cloudformation-template-update-stack.json'), 'utf8'),
) as Template;
// The bucket is the one that the code is uploaded to by hand.
for (const name of Object.keys(template.Resources).filter((one) =>
  one.startsWith('ServerlessDeploymentBucket'),
)) {
  delete template.Resources[name];
}
delete template.Outputs.ServerlessDeploymentBucketName;
template.Parameters = {
  CodeBucket: { Type: 'String', Description: 'S3 bucket with function.zip, in the region of the stage' },
  CodeKey: {
    Type: 'String',
    Description: 'its key there; another one for each release, or CloudFormation sees no change',
  },
};
const properties = template.Resources.ConfigSwitchLambdaFunction?.Properties;
if (properties) properties.Code = { S3Bucket: { Ref: 'CodeBucket' }, S3Key: { Ref: 'CodeKey' } };
if (JSON.stringify(template).includes('ServerlessDeploymentBucket')) {
  throw new Error('the template still refers to the deployment bucket of osls');
}

copyFileSync(join(PACKAGE, 'configSwitch.zip'), join(DIST, 'function.zip'));
writeFileSync(join(DIST, 'template.json'), `${JSON.stringify(template)}\n`);
writeFileSync(
  join(DIST, 'sbom.json'),
  execFileSync('npm', ['sbom', '--omit', 'dev', '--sbom-format', 'cyclonedx'], { maxBuffer: 2 ** 26 }),
);
const checksums = ['function.zip', 'template.json', 'sbom.json'].map((name) => {
  const hash = createHash('sha256')
    .update(readFileSync(join(DIST, name)))
    .digest('hex');
  return `${hash}  ${name}\n`;
});
writeFileSync(join(DIST, 'SHA256SUMS'), checksums.join(''));
console.log(`${DIST}/ is written; docs/operations.md#a-release-without-nodejs says how to deploy it`);
