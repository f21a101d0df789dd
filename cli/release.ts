/**
 * `npm run release -- --stage S`: writes dist/, from which a stage is deployed without Node.js: the
 * function's code, the stage's CloudFormation template, which has the place of the code as its parameters, an
 * SBOM (CycloneDX), the alarms that CloudFormation may watch, and checksums. It needs no AWS account.
 */

import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { watching } from '../infra/monitoring/rollback.ts';
import { type Program, start, type Values } from './command-line.ts';
import { bundleFunction, sbomOf } from './sbom.ts';
import { osls, PARAM_OPTION, regionOfStage, STAGE_OPTIONS, stageFile, unknownStage } from './stage.ts';

interface Template {
  Parameters?: object;
  readonly Resources: Record<string, { readonly Properties: Record<string, unknown> }>;
  readonly Outputs: Record<string, unknown>;
}

const DIST = 'dist';
const PACKAGE = '.serverless';
/** What SHA256SUMS is of. */
const FILES = ['function.zip', 'template.json', 'sbom.json', 'rollback.json'];
const OPTIONS = {
  ...STAGE_OPTIONS,
  ...PARAM_OPTION,
} as const;

export const RELEASE: Program<typeof OPTIONS> = {
  name: 'npm run release',
  summary: `Writes into ${DIST}/ what is needed to deploy a stage without Node.js.`,
  options: OPTIONS,
};

/** Packages the stage, and writes the release. @returns the exit status, that of osls if it fails */
export async function release({ stage, region, param = [] }: Values<typeof OPTIONS>): Promise<number> {
  const file = stageFile(stage);
  if (param.length === 0 && !existsSync(file)) {
    const remedy =
      'copy infra/stages/example.yml to it, or give another --stage, or each parameter with --param';
    throw unknownStage(stage, `${file} does not exist`, remedy);
  }
  rmSync(DIST, { recursive: true, force: true });
  mkdirSync(DIST);
  const status = osls('package', stage, region, param);
  if (status !== 0) return status;

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
  writeFileSync(join(DIST, 'sbom.json'), sbomOf(await bundleFunction()));
  // The account is known only where it is deployed.
  const triggers = watching(stage, regionOfStage(stage, region, param), 'ACCOUNT');
  writeFileSync(join(DIST, 'rollback.json'), `${JSON.stringify(triggers, null, 2)}\n`);
  const checksums = FILES.map((name) => `${sha256(join(DIST, name))}  ${name}\n`);
  writeFileSync(join(DIST, 'SHA256SUMS'), checksums.join(''));
  console.log(`${DIST}/ is written; docs/how-to/release-without-nodejs.md says how to deploy it`);
  return 0;
}

/** Returns the checksum of a file (hex). */
function sha256(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

if (import.meta.main) start(RELEASE, release);
