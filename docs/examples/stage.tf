# A stage of barman-config-switch from a release, which `npm run release -- --stage prod` has written into dist/.
terraform {
  # For terraform_data.
  required_version = ">= 1.4"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "stage" {
  type    = string
  default = "prod"
}

variable "region" {
  type        = string
  description = "The region in the file of the stage."
}

variable "bucket" {
  type        = string
  description = "An S3 bucket of yours, in that region."
}

variable "release" {
  type        = string
  description = "The folder of the release."
  default     = "dist"
}

provider "aws" {
  region = var.region
}

locals {
  name = "barman-config-switch-${var.stage}"
  # Each release has keys of its own: otherwise CloudFormation sees no change of the code.
  prefix = "barman-config-switch/${var.stage}/${filesha256("${var.release}/SHA256SUMS")}"
}

resource "aws_s3_object" "code" {
  bucket = var.bucket
  key    = "${local.prefix}/function.zip"
  source = "${var.release}/function.zip"
  # The code of the last release is there until the stack is updated: CloudFormation may roll back to it.
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_s3_object" "template" {
  bucket = var.bucket
  key    = "${local.prefix}/template.json"
  source = "${var.release}/template.json"
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_cloudformation_stack" "stage" {
  name         = local.name
  template_url = "https://s3.${var.region}.amazonaws.com/${var.bucket}/${aws_s3_object.template.key}"
  capabilities = ["CAPABILITY_NAMED_IAM"]
  # A stack that was rolled back could not be replaced because of prevent_destroy.
  on_failure = "DELETE"

  parameters = {
    CodeBucket = var.bucket
    CodeKey    = aws_s3_object.code.key
  }

  # CloudFormation passes them on to everything that can have tags.
  tags = {
    service = "barman-config-switch"
    stage   = var.stage
  }

  # An update must neither replace nor delete the ledger.
  policy_body = jsonencode({
    Statement = [
      { Effect = "Allow", Principal = "*", Action = "Update:*", Resource = "*" },
      {
        Effect    = "Deny"
        Principal = "*"
        Action    = ["Update:Replace", "Update:Delete"]
        Resource  = ["LogicalResourceId/LedgerTable", "LogicalResourceId/EventsTable"]
      },
    ]
  })

  # AWS takes 20 to 40 minutes to release the network interfaces of a function in a VPC.
  timeouts {
    create = "90m"
    update = "90m"
    delete = "90m"
  }

  lifecycle {
    prevent_destroy = true
  }
}

# The provider has no argument for it.
resource "terraform_data" "termination_protection" {
  triggers_replace = [aws_cloudformation_stack.stage.id]
  provisioner "local-exec" {
    command = "aws cloudformation update-termination-protection --enable-termination-protection --region ${var.region} --stack-name ${local.name}"
  }
}

output "config_switch_url" {
  description = "For the callbacks; null with api: none."
  value       = lookup(aws_cloudformation_stack.stage.outputs, "ConfigSwitchUrl", null)
}

output "function_security_group" {
  description = "The Barman host has to allow it."
  value       = aws_cloudformation_stack.stage.outputs["FunctionSecurityGroup"]
}

output "dashboard" {
  value = aws_cloudformation_stack.stage.outputs["Dashboard"]
}
