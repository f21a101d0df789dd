/** What the ledger needs of DynamoDB's client, by name, so that the rest is left out of the bundle. */

export {
  ConditionalCheckFailedException,
  DynamoDBClient,
  GetItemCommand,
  paginateScan,
  UpdateItemCommand,
} from '@aws-sdk/client-dynamodb';
